"""6 settle: what became of an attempt is written down, one clause for each Outcome."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from .event import Outcome, Result

if TYPE_CHECKING:
    from .models import Delivery


def settle(delivery: Delivery, outcome: Outcome) -> None:
    """Write ``outcome`` on ``delivery``, in the transaction that is open if there is one.

    Raises LeaseLost if the delivery is no longer this worker's.
    """
    match outcome.result:
        case Result.DONE:
            delivery.set_done()
        case Result.RETRY:
            delivery.set_waiting(outcome.countdown, _errors(delivery, outcome))
        case Result.DEAD:
            delivery.set_dead(_errors(delivery, outcome))
        case Result.DISCARDED:
            delivery.set_discarded(_errors(delivery, outcome))


def _errors(delivery: Delivery, outcome: Outcome) -> list[dict[str, Any]]:
    error = outcome.error
    if error is None:
        return delivery.errors
    kind = type(error)
    text = "".join(traceback.format_exception(error))
    return delivery.with_error(f"{kind.__module__}.{kind.__qualname__}", str(error), text)

"""6 settle: what became of an attempt is written down, one clause for each Outcome, and then told."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from django.db import InterfaceError, OperationalError, connections

from . import signals
from .event import Outcome, Result
from .exceptions import LeaseLost
from .outcomes import again_on_conflict
from .texts import message

if TYPE_CHECKING:
    from .models import Delivery
    from .receivers import AsyncReceiver

logger = logging.getLogger("signalq.settle")

_TOLD = {
    Result.DONE: signals.delivery_done,
    Result.RETRY: signals.delivery_retried,
    Result.DEAD: signals.delivery_dead,
    Result.DISCARDED: signals.delivery_discarded,
}


def settle(delivery: Delivery, outcome: Outcome) -> None:
    """Write ``outcome`` on ``delivery``, in the transaction that is open if there is one.

    Raises LeaseLost if the delivery is no longer this worker's.
    """
    match outcome.result:
        case Result.DONE:
            delivery.set_done()
        case Result.RETRY:
            delivery.set_waiting(outcome.countdown, _errors(delivery, outcome), counts=outcome.counts)
        case Result.DEAD:
            delivery.set_dead(_errors(delivery, outcome))
        case Result.DISCARDED:
            delivery.set_discarded(_errors(delivery, outcome))


def finish(receiver: AsyncReceiver[..., Any], delivery: Delivery, outcome: Outcome, duration: float) -> None:
    """Settle what is not DONE (that is settled with the handler's writes), and send signalq's signal for it.

    ``duration`` is the attempt's, in seconds.
    """
    try:
        if isinstance(outcome.error, LeaseLost):
            raise outcome.error
        if outcome.result is not Result.DONE:
            _settle_surely(delivery, outcome)
    except LeaseLost as lost:
        if not _is_done(delivery):
            signals.lease_lost.send_robust(receiver, delivery=delivery, reason=str(lost))
            return
        # It had committed before this was raised: by an on_commit hook of the handler's.
        logger.error("%s: an on_commit hook raised after its delivery was done", receiver.name, exc_info=outcome.error)
        outcome = Outcome(Result.DONE)
    tell(receiver, delivery, outcome, duration)


def tell(
    receiver: AsyncReceiver[..., Any], delivery: Delivery | signals.Transient, outcome: Outcome, duration: float | None
) -> None:
    """Send the signal for ``outcome``; ``duration`` is in seconds, None where nothing was attempted."""
    _TOLD[outcome.result].send_robust(receiver, delivery=delivery, outcome=outcome, duration=duration)


def _settle_surely(delivery: Delivery, outcome: Outcome) -> None:
    """Settle on a connection that works: the failure to be written down may have been the old one's."""
    try:
        again_on_conflict(lambda: settle(delivery, outcome))
    except (OperationalError, InterfaceError):
        connections[str(delivery._state.db)].close()
        # If the database is gone altogether this raises, and the lease brings the delivery back.
        settle(delivery, outcome)


def _is_done(delivery: Delivery) -> bool:
    rows = type(delivery).objects.using(delivery._state.db).filter(pk=delivery.pk, attempt=delivery.attempt)
    return rows.filter(state=delivery.State.DONE).exists()


def _errors(delivery: Delivery, outcome: Outcome) -> list[dict[str, Any]]:
    error = outcome.error
    if error is None:
        return delivery.errors
    kind = type(error)
    text = "".join(traceback.format_exception(error))
    return delivery.with_error(f"{kind.__module__}.{kind.__qualname__}", message(error), text)

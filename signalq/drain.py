"""Deliveries run in the process that captured them, for testing.py: a worker's work without a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.models import F

from . import codec, conf, execute, outbox, signals, wire
from .context import CurrentDelivery
from .event import Outcome, Result
from .exceptions import LeaseLost
from .load import Loader
from .outcomes import classify
from .state import State, after

if TYPE_CHECKING:
    import uuid

    from .models import Delivery
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]
    Key = tuple[uuid.UUID, str]
    Told = list[tuple[Delivery, Outcome]]


def key_of(row: Delivery) -> Key:
    """What tells a delivery from all others, whether it has a row or not."""
    return row.event_id, row.receiver


def awaiting() -> list[outbox.Pending]:
    """What nothing but the test's own transaction keeps from being committed, in this thread."""
    found = []
    for connection in connections.all(initialized_only=True):
        # Savepoints stand from the second block on. Django marks the blocks that a TestCase opened.
        blocks: list[Any] = connection.atomic_blocks
        if not (blocks and blocks[0]._from_testcase):
            continue
        pairs = zip(reversed(connection.savepoint_ids), reversed(blocks), strict=False)
        still_open = {sid for sid, block in pairs if not block._from_testcase}
        found += [
            function
            for sids, function, *_ in connection.run_on_commit
            if isinstance(function, outbox.Pending) and not function.recorded and still_open.isdisjoint(sids)
        ]
    return found


def deliver(receiver: Receiver, rows: Sequence[Delivery], messages: Mapping[Key, wire.Message], times: int) -> Told:
    """Run ``rows``, which a worker would get together, ``times`` times; what became of those that did run.

    All but the last time their worker dies between the end of the handler and the commit. A failure ends it.
    """
    using = str(rows[0]._state.db)
    rolled_back = receiver.options.durable and receiver.options.atomic
    for _ in range(times - 1):
        with transaction.atomic(using=using) if rolled_back else contextlib.nullcontext():
            told = _attempt(receiver, using, rows, messages)
            done = bool(told) and all(outcome.result is Result.DONE for _, outcome in told)
            if done and rolled_back:
                transaction.set_rollback(True, using=using)
        if not done:
            return told
        _lose(row for row, _ in told)
    return _attempt(receiver, using, rows, messages)


def _attempt(receiver: Receiver, using: str, rows: Sequence[Delivery], messages: Mapping[Key, wire.Message]) -> Told:
    if not receiver.options.durable:
        return [(row, _call(receiver, row, messages[key_of(row)])) for row in rows]
    ids = [row.pk for row in rows]
    # Whatever it is due at. The relay does this in its own time.
    type(rows[0]).objects.using(using).filter(pk__in=ids, state=State.WAITING).update(state=State.QUEUED)
    with _outcomes() as told:
        execute.run(receiver, using, ids)
    return told


def _call(receiver: Receiver, row: Delivery, message: wire.Message) -> Outcome:
    """What the task of a transient receiver does with its message."""
    row.attempt += 1
    try:
        _, _, text = wire.unseal(wire.seal(message))
        current = CurrentDelivery(codec.load_event(text), row.receiver, row.attempt)
        outcome = Outcome(Result.DONE, value=execute.call(receiver, current, Loader()))
    except Exception as error:  # noqa: BLE001 - whatever a handler raises is an outcome
        outcome = classify(receiver, row.attempt, error)
        row.errors = row.with_error(f"{type(error).__module__}.{type(error).__qualname__}", str(error))
    row.state = State.WAITING if outcome.result is Result.RETRY else State(outcome.result.value)
    return outcome


@contextlib.contextmanager
def _outcomes() -> Iterator[Told]:
    """What becomes of the deliveries that run meanwhile."""
    told: Told = []

    def note(delivery: Delivery, **kwargs: Any) -> None:
        if kwargs.get("duration", True) is not None:  # it did run
            told.append((delivery, kwargs.get("outcome") or Outcome(Result.RETRY, error=LeaseLost(kwargs["reason"]))))

    sent = (signals.delivery_done, signals.delivery_retried, signals.delivery_dead, signals.delivery_discarded)
    with contextlib.ExitStack() as stack:
        for signal in (*sent, signals.lease_lost):
            signal.connect(note)
            stack.callback(signal.disconnect, note)
        yield told


def _lose(rows: Iterable[Delivery]) -> None:
    """Their worker died, and somebody else gets them."""
    for row in rows:
        row.state = State.QUEUED
        if row.pk is not None:
            type(row).objects.using(row._state.db).filter(pk=row.pk).update(
                state=State.QUEUED,
                # The claim is committed before the handler runs, so that it counts.
                attempt=row.attempt,
                lost_leases=F("lost_leases") + 1,
                due_at=after(conf.current().GRACE),
                finished_at=None,
            )

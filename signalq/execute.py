"""5 execute: claimed deliveries run one after another, each in a transaction of its own.

started -> load -> call -> Outcome -> settle. No lock outlives a delivery, and no failure reaches a neighbour.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import async_to_sync
from django.db import DatabaseError, InterfaceError, OperationalError, connections, transaction

from . import codec, conf, signals
from .context import CurrentDelivery, delivering
from .event import Event, Outcome, Result
from .exceptions import (
    BrokenTransaction,
    CascadeError,
    DecodeError,
    Discard,
    LeaseLost,
    NewerVersion,
    ObjectGone,
    Retry,
)
from .lease import Lease
from .load import Loader
from .settle import settle

if TYPE_CHECKING:
    from .models import Delivery
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

logger = logging.getLogger("signalq.execute")
T = TypeVar("T")

CONFLICT_TRIES = 10
"""A deadlock or serialization failure is tried again at once, this often, before it counts as a failure."""
PARKED = 60.0
"""Seconds until a delivery that this worker is too old for is offered again."""

_CONFLICT_SQLSTATES = {"40001", "40P01"}  # PostgreSQL: serialization_failure, deadlock_detected
_CONFLICT_ERRNOS = {1205, 1213, 1020}  # MariaDB: lock wait timeout, deadlock, record has changed since last read
_CONFLICT_SQLITE = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED


def run(receiver: Receiver, using: str, ids: Sequence[int]) -> None:
    """Claim those of ``ids`` that are queued for ``receiver`` on alias ``using``, and run them."""
    from .models import Delivery

    connections[using].close_if_unusable_or_obsolete()
    outbox = Delivery.objects.using(using)
    deliveries = again_on_conflict(lambda: outbox.claim(receiver.names, ids, conf.current().LEASE))
    if not deliveries:
        return
    with Lease(using, deliveries) as lease:
        events = {delivery.pk: _decoded(delivery) for delivery in deliveries}
        loader = Loader()
        if len(deliveries) > 1:
            _prefetch(loader, list(events.values()))
        for delivery in lease:
            _execute(receiver, delivery, events[delivery.pk], loader)


def _decoded(delivery: Delivery) -> Event | DecodeError:
    try:
        return codec.load_event(delivery.payload)
    except DecodeError as error:
        return error


def _prefetch(loader: Loader, events: list[Event | DecodeError]) -> None:
    try:
        loader.prefetch(event for event in events if isinstance(event, Event))
    except (DecodeError, DatabaseError) as error:
        # Each delivery finds out for itself, with its own outcome.
        logger.debug("The rows of a chunk could not be loaded together: %s", error)


def _execute(receiver: Receiver, delivery: Delivery, event: Event | DecodeError, loader: Loader) -> None:
    """One attempt of one delivery, from its start to what is written down."""
    signals.delivery_started.send_robust(receiver, delivery=delivery)
    started = time.monotonic()
    outcome = _attempt(receiver, delivery, event, loader)
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
    _FINISHED[outcome.result].send_robust(
        receiver, delivery=delivery, outcome=outcome, duration=time.monotonic() - started
    )
    if outcome.error is not None and not isinstance(outcome.error, Exception):
        raise outcome.error  # SystemExit, KeyboardInterrupt: the process is to end


_FINISHED = {
    Result.DONE: signals.delivery_done,
    Result.RETRY: signals.delivery_retried,
    Result.DEAD: signals.delivery_dead,
    Result.DISCARDED: signals.delivery_discarded,
}


def _attempt(receiver: Receiver, delivery: Delivery, event: Event | DecodeError, loader: Loader) -> Outcome:
    """Run the handler; DONE is committed with its writes, anything else is rolled back and still to be settled."""
    try:
        if isinstance(event, DecodeError):
            raise event
        if receiver.options.atomic:
            again_on_conflict(lambda: _perform(receiver, delivery, event, loader))
        else:
            # Its effects are not rolled back, so that only a retry that counts may repeat them.
            call(receiver, event, delivery.attempt, loader)
            again_on_conflict(lambda: settle(delivery, Outcome(Result.DONE)))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an outcome
        return classify(receiver, delivery.tries, error)
    return Outcome(Result.DONE)


def _perform(receiver: Receiver, delivery: Delivery, event: Event, loader: Loader) -> None:
    using = str(delivery._state.db)
    with transaction.atomic(using=using):
        with transaction.atomic(using=using):
            call(receiver, event, delivery.attempt, loader)
            if connections[using].get_rollback():
                raise BrokenTransaction(
                    f"{receiver.name} swallowed a database error, which has broken its transaction: its writes would "
                    "be gone. Put the statement that may fail into its own transaction.atomic(), or the receiver "
                    "into atomic=False."
                )
        settle(delivery, Outcome(Result.DONE))


def call(receiver: Receiver, event: Event, attempt: int, loader: Loader) -> Any:
    """Call the handler as Django would; what it returns. Raises what it raises, ObjectGone and DecodeError."""
    arguments = {name: loader.thaw(value) for name, value in event.arguments.items()}
    handler = receiver.handler
    if inspect.iscoroutinefunction(handler):
        handler = async_to_sync(handler)
    with delivering(CurrentDelivery(event, receiver.name, attempt)):
        return handler(signal=_signal(receiver, event), sender=loader.thaw(event.sender), **arguments)


def _signal(receiver: Receiver, event: Event) -> Any:
    if event.signal in receiver.signals:
        return receiver.signals[event.signal]
    if len(receiver.signals) == 1:
        return next(iter(receiver.signals.values()))  # it was renamed
    raise DecodeError(f"{receiver.name} no longer listens to {event.signal}.")


def classify(receiver: Receiver, tries: int, error: BaseException) -> Outcome:
    """What ``error`` in attempt number ``tries`` means for its delivery."""
    policy = receiver.policy
    match error:
        case Discard() | ObjectGone():
            return Outcome(Result.DISCARDED, error=error)
        case NewerVersion():
            return Outcome(Result.RETRY, PARKED, error)
        case DecodeError() | CascadeError():
            return Outcome(Result.DEAD, error=error)
        case Retry() if policy.has_left(tries):
            countdown = policy.delay(tries) if error.countdown is None else error.countdown
            return Outcome(Result.RETRY, countdown, error)
        case Retry():
            return Outcome(Result.DEAD, error=error)
    retry = policy.retries(error, tries) if isinstance(error, Exception) else policy.has_left(tries)
    return Outcome(Result.RETRY, policy.delay(tries), error) if retry else Outcome(Result.DEAD, error=error)


def again_on_conflict(work: Callable[[], T]) -> T:
    """Do ``work``, which is one transaction, again when the database asks for just that."""
    for attempt in range(1, CONFLICT_TRIES):
        try:
            return work()
        except Exception as error:
            if not _is_conflict(error):
                raise
            # Apart by chance, or the same two meet again.
            time.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311
    return work()


def _is_conflict(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, DatabaseError):
            driver = error.__cause__
            state = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
            if state in _CONFLICT_SQLSTATES or (error.args and error.args[0] in _CONFLICT_ERRNOS):
                return True
            if _sqlite_code(driver) in _CONFLICT_SQLITE:
                return True
        error = error.__cause__ or error.__context__
    return False


def _sqlite_code(driver: BaseException | None) -> int | None:
    code = getattr(driver, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    # Python 3.10's sqlite3 has no error codes.
    return 5 if type(driver).__module__ == "sqlite3" and "is locked" in str(driver) else None


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

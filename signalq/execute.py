"""5 execute: claimed deliveries run one after another, each in a transaction of its own.

claim -> load -> call -> Outcome -> settle. No lock outlives a delivery, and no failure reaches a neighbour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.dispatch import Signal

from . import codec, conf, publish, signals, wire
from .batch import run_batches
from .coalesce import coalesce
from .context import CurrentDelivery, active, delivering
from .event import Event, Outcome, Result
from .exceptions import DecodeError, Discard
from .lease import Lease
from .load import Loader
from .naming import signal_of
from .outcomes import again_on_conflict, classify, unbroken
from .settle import finish, settle, tell

if TYPE_CHECKING:
    from .models import Delivery
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

logger = logging.getLogger("signalq.execute")

T = TypeVar("T")


def run(receiver: Receiver, using: str, ids: Sequence[int]) -> None:
    """Claim those of ``ids`` that are queued for ``receiver`` on alias ``using``, and run them."""
    _refresh(connections[using])
    _expire(receiver, using, ids)
    deliveries, superseded = _surely(using, lambda: _claim(receiver, using, ids))
    _tell_discarded(receiver, superseded)
    if not deliveries:
        return
    with Lease(using, deliveries) as lease:
        events = {delivery.pk: _decoded(delivery) for delivery in deliveries}
        loader = Loader()
        if len(deliveries) > 1:
            _prefetch(loader, events.values())
        if receiver.batch_size is not None:
            run_batches(receiver, using, lease, events, loader)
            return
        while taken := lease.take(1):
            _execute(receiver, taken[0], events[taken[0].pk], loader)
            _wake_next(receiver, taken[0])


def _expire(receiver: Receiver, using: str, ids: Sequence[int]) -> None:
    from .models import Delivery

    seconds = receiver.options.expires
    if seconds is not None:
        outbox = Delivery.objects.using(using)
        _tell_discarded(receiver, _surely(using, lambda: outbox.expire(receiver.names, ids, seconds)))


def _claim(receiver: Receiver, using: str, ids: Sequence[int]) -> tuple[list[Delivery], list[Delivery]]:
    """What is to be run, and what is discarded because something else of it runs for it, too."""
    from .models import Delivery

    outbox, options, seconds = Delivery.objects.using(using), receiver.options, conf.current().LEASE
    if options.coalesce is None:
        return outbox.claim(receiver.names, ids, seconds, in_order=options.ordered), []
    with transaction.atomic(using=using):
        return coalesce(outbox, receiver.names, outbox.claim(receiver.names, ids, seconds, in_order=options.ordered))


def _tell_discarded(receiver: Receiver, deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        tell(receiver, delivery, Outcome(Result.DISCARDED, error=Discard(delivery.errors[-1]["message"])), None)


def _refresh(connection: BaseDatabaseWrapper) -> None:
    """Close a connection that is broken or too old. With CONN_MAX_AGE=0 it is Celery's to close."""
    if connection.in_atomic_block:
        return  # as it is where a task runs eagerly
    settings = connection.settings_dict
    if settings["CONN_MAX_AGE"] != 0 or connection.errors_occurred or connection.autocommit != settings["AUTOCOMMIT"]:
        connection.close_if_unusable_or_obsolete()


def _surely(using: str, work: Callable[[], T]) -> T:
    """Do ``work``, which is one transaction; again if the server has closed the connection since the last task."""
    try:
        return again_on_conflict(work)
    except (OperationalError, InterfaceError):
        connection = connections[using]
        if connection.in_atomic_block or connection.connection is None or connection.is_usable():
            raise
        connection.close()
        return again_on_conflict(work)


def _decoded(delivery: Delivery) -> Event | Exception:
    """Its event, or why it has none: an error that is its own, and not its neighbours'."""
    try:
        return codec.load_event(delivery.payload)
    except Exception as error:  # noqa: BLE001 - a soft time limit, too: it counts as an attempt
        return error


def _prefetch(loader: Loader, events: Iterable[Event | Exception]) -> None:
    try:
        loader.prefetch(event for event in events if isinstance(event, Event))
    except codec.INTERRUPTIONS:
        raise
    except Exception as error:  # noqa: BLE001 - one damaged event must not fail its neighbours
        # Each delivery finds out for itself, with its own outcome.
        logger.debug("The rows of a chunk could not be loaded together: %s", error)


def _wake_next(receiver: Receiver, delivery: Delivery) -> None:
    """For an ordered receiver: the next of the key may run as soon as this one is settled."""
    if receiver.options.ordered and delivery.key and delivery.state != delivery.State.WAITING:
        using = str(delivery._state.db)
        outbox = type(delivery).objects.using(using)
        pk = again_on_conflict(lambda: outbox.next_in_order(receiver.names, delivery.key))
        if pk is not None:
            publish.send([wire.Wake(using, receiver.name, pk, receiver.travels_alone)])


def _execute(receiver: Receiver, delivery: Delivery, event: Event | Exception, loader: Loader) -> None:
    """One attempt of one delivery, from its start to what is written down."""
    signals.delivery_started.send_robust(receiver, delivery=delivery, event=event)
    started = time.monotonic()
    outcome = _attempt(receiver, delivery, event, loader)
    finish(receiver, delivery, outcome, time.monotonic() - started)
    if outcome.error is not None and not isinstance(outcome.error, Exception):
        raise outcome.error  # SystemExit, KeyboardInterrupt: the process is to end


def _attempt(receiver: Receiver, delivery: Delivery, event: Event | Exception, loader: Loader) -> Outcome:
    """Run the handler; DONE is committed with its writes, anything else is rolled back and still to be settled."""
    try:
        if isinstance(event, Exception):
            raise event
        # By the name that it was recorded under: it is to have one idempotency key, also when the receiver is renamed.
        current = CurrentDelivery(event, delivery.receiver, delivery.attempt)
        if receiver.options.atomic:
            value = again_on_conflict(lambda: _perform(receiver, delivery, current, loader))
        else:
            # Its effects are not rolled back, so that only a retry that counts may repeat them.
            value = call(receiver, current, loader)
            again_on_conflict(lambda: settle(delivery, Outcome(Result.DONE)))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an outcome
        return classify(receiver, delivery.tries, error)
    return Outcome(Result.DONE, value=value)


def _perform(receiver: Receiver, delivery: Delivery, current: CurrentDelivery, loader: Loader) -> Any:
    using = str(delivery._state.db)
    # Around the transaction: its on_commit hooks are the handler's, too, and what they cause has a cause.
    with delivering(current), transaction.atomic(using=using):
        with unbroken(receiver, using):
            value = call(receiver, current, loader)
        settle(delivery, Outcome(Result.DONE))
    return value


def call(receiver: Receiver, current: CurrentDelivery, loader: Loader) -> Any:
    """Call the handler as Django would; what it returns. Raises what it raises, ObjectGone and DecodeError."""
    event = current.event
    arguments = {name: loader.thaw(value) for name, value in event.arguments.items()}
    with delivering(current), active(event.context):
        return receiver.synchronous(signal=_signal(receiver, event), sender=loader.thaw(event.sender), **arguments)


def _signal(receiver: Receiver, event: Event) -> Signal:
    signal = signal_of(event.signal, receiver.signals)
    if signal is None:
        raise DecodeError(f"{receiver.name} no longer listens to {event.signal}.")
    return signal

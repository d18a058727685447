"""5 execute: claimed deliveries run one after another, each in a transaction of its own.

claim -> load -> call -> Outcome -> settle. No lock outlives a delivery, and no failure reaches a neighbour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connections, transaction
from django.dispatch import Signal

from . import codec, conf, publish, signals, wire
from .batch import run_batches
from .coalesce import coalesce
from .context import CurrentDelivery, active, delivering
from .event import Event, Outcome, Result
from .exceptions import DecodeError
from .lease import Lease
from .load import Loader
from .naming import signal_of
from .outcomes import again_on_conflict, classify, unbroken
from .settle import finish, settle

if TYPE_CHECKING:
    from .models import Delivery
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

logger = logging.getLogger("signalq.execute")


def run(receiver: Receiver, using: str, ids: Sequence[int]) -> None:
    """Claim those of ``ids`` that are queued for ``receiver`` on alias ``using``, and run them."""
    connections[using].close_if_unusable_or_obsolete()
    deliveries = again_on_conflict(lambda: _claim(receiver, using, ids))
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


def _claim(receiver: Receiver, using: str, ids: Sequence[int]) -> list[Delivery]:
    from .models import Delivery

    outbox, options, seconds = Delivery.objects.using(using), receiver.options, conf.current().LEASE
    if options.expires is not None:
        outbox.expire(receiver.names, ids, options.expires)
    if options.coalesce is None:
        return outbox.claim(receiver.names, ids, seconds, in_order=options.ordered)
    with transaction.atomic(using=using):
        return coalesce(outbox, receiver.names, outbox.claim(receiver.names, ids, seconds, in_order=options.ordered))


def _decoded(delivery: Delivery) -> Event | DecodeError:
    try:
        return codec.load_event(delivery.payload)
    except DecodeError as error:
        return error


def _prefetch(loader: Loader, events: Iterable[Event | DecodeError]) -> None:
    try:
        loader.prefetch(event for event in events if isinstance(event, Event))
    except (DecodeError, DatabaseError) as error:
        # Each delivery finds out for itself, with its own outcome.
        logger.debug("The rows of a chunk could not be loaded together: %s", error)


def _wake_next(receiver: Receiver, delivery: Delivery) -> None:
    """For an ordered receiver: the next of the key may run as soon as this one is settled."""
    if receiver.options.ordered and delivery.key and delivery.state != delivery.State.WAITING:
        using = str(delivery._state.db)
        pk = type(delivery).objects.using(using).next_in_order(receiver.names, delivery.key)
        if pk is not None:
            publish.send([wire.Wake(using, receiver.name, pk, receiver.travels_alone)])


def _execute(receiver: Receiver, delivery: Delivery, event: Event | DecodeError, loader: Loader) -> None:
    """One attempt of one delivery, from its start to what is written down."""
    signals.delivery_started.send_robust(receiver, delivery=delivery)
    started = time.monotonic()
    outcome = _attempt(receiver, delivery, event, loader)
    finish(receiver, delivery, outcome, time.monotonic() - started)
    if outcome.error is not None and not isinstance(outcome.error, Exception):
        raise outcome.error  # SystemExit, KeyboardInterrupt: the process is to end


def _attempt(receiver: Receiver, delivery: Delivery, event: Event | DecodeError, loader: Loader) -> Outcome:
    """Run the handler; DONE is committed with its writes, anything else is rolled back and still to be settled."""
    try:
        if isinstance(event, DecodeError):
            raise event
        if receiver.options.atomic:
            value = again_on_conflict(lambda: _perform(receiver, delivery, event, loader))
        else:
            # Its effects are not rolled back, so that only a retry that counts may repeat them.
            value = call(receiver, event, delivery.attempt, loader)
            again_on_conflict(lambda: settle(delivery, Outcome(Result.DONE)))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an outcome
        return classify(receiver, delivery.tries, error)
    return Outcome(Result.DONE, value=value)


def _perform(receiver: Receiver, delivery: Delivery, event: Event, loader: Loader) -> Any:
    using = str(delivery._state.db)
    with transaction.atomic(using=using):
        with unbroken(receiver, using):
            value = call(receiver, event, delivery.attempt, loader)
        settle(delivery, Outcome(Result.DONE))
    return value


def call(receiver: Receiver, event: Event, attempt: int, loader: Loader) -> Any:
    """Call the handler as Django would; what it returns. Raises what it raises, ObjectGone and DecodeError."""
    arguments = {name: loader.thaw(value) for name, value in event.arguments.items()}
    with delivering(CurrentDelivery(event, receiver.name, attempt)), active(event.context):
        return receiver.synchronous(signal=_signal(receiver, event), sender=loader.thaw(event.sender), **arguments)


def _signal(receiver: Receiver, event: Event) -> Signal:
    signal = signal_of(event.signal, receiver.signals)
    if signal is None:
        raise DecodeError(f"{receiver.name} no longer listens to {event.signal}.")
    return signal

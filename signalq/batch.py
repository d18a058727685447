"""A chunk in one call and one transaction, for receivers that ask for it: ``@async_batch_receiver``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import transaction

from . import signals
from .context import CurrentDelivery, delivering
from .event import Event, Outcome, Result
from .exceptions import DecodeError, LeaseLost, ObjectGone
from .outcomes import again_on_conflict, classify, unbroken
from .settle import finish

if TYPE_CHECKING:
    from .lease import Lease
    from .load import Loader
    from .models import Delivery
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]
    Events = Mapping[int, Event | Exception]


def run_batches(receiver: Receiver, using: str, lease: Lease, events: Events, loader: Loader) -> None:
    """Run what ``lease`` holds, ``receiver.batch_size`` at a time."""
    while deliveries := lease.take(receiver.batch_size or 1):
        _execute(receiver, using, deliveries, events, loader)


def _execute(receiver: Receiver, using: str, deliveries: Sequence[Delivery], events: Events, loader: Loader) -> None:
    for delivery in deliveries:
        signals.delivery_started.send_robust(receiver, delivery=delivery, event=events[delivery.pk])
    started = time.monotonic()
    outcomes: dict[Delivery, Outcome] = {}
    failure: BaseException | None = None

    def attempt() -> None:
        # Loaded for each try anew: what the handler did to its instances in one must not reach the next.
        outcomes.clear()
        if ready := _loaded(receiver, deliveries, events, loader, outcomes):
            _perform(receiver, using, ready)

    try:
        again_on_conflict(attempt)
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an outcome
        failure = error
    for delivery in deliveries:
        # Each on its own from here on: what was attempted before travels alone, and fails nobody else again.
        if delivery not in outcomes:
            outcomes[delivery] = classify(receiver, delivery.tries, failure) if failure else Outcome(Result.DONE)
    for delivery, outcome in outcomes.items():
        finish(receiver, delivery, outcome, time.monotonic() - started)
    if failure is not None and not isinstance(failure, Exception):
        raise failure  # SystemExit, KeyboardInterrupt: the process is to end


def _loaded(
    receiver: Receiver,
    deliveries: Sequence[Delivery],
    events: Events,
    loader: Loader,
    outcomes: dict[Delivery, Outcome],
) -> dict[Delivery, Event]:
    """The events as the handler gets them; to ``outcomes`` comes what became of those that it cannot get."""
    ready: dict[Delivery, Event] = {}
    for delivery in deliveries:
        event = events[delivery.pk]
        try:
            if isinstance(event, Exception):
                outcomes[delivery] = classify(receiver, delivery.tries, event)
                continue
            arguments = {name: loader.thaw(value) for name, value in event.arguments.items()}
            ready[delivery] = dataclasses.replace(event, arguments=arguments, sender=loader.thaw(event.sender))
        except (DecodeError, ObjectGone) as error:
            outcomes[delivery] = classify(receiver, delivery.tries, error)
    return ready


def _cause(ready: Mapping[Delivery, Event]) -> CurrentDelivery:
    """The delivery with the longest chain stands for the batch, so that the cascade limit counts for it, too."""
    delivery, event = max(ready.items(), key=lambda pair: len(pair[1].chain))
    return CurrentDelivery(event, delivery.receiver, delivery.attempt)


def _perform(receiver: Receiver, using: str, ready: Mapping[Delivery, Event]) -> None:
    # Around the transaction, for its on_commit hooks.
    with delivering(_cause(ready)), transaction.atomic(using=using):
        with unbroken(receiver, using):
            receiver.synchronous(list(ready.values()))
        deliveries = list(ready)
        if type(deliveries[0]).objects.using(using).set_done(deliveries) != len(deliveries):
            raise LeaseLost(f"{receiver.name}: a delivery of this batch is no longer this worker's.")

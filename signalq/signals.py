"""signalq's own signals, and the logging that listens to them.

Each is sent with the receiver (an AsyncReceiver) as its sender, when the transaction that it tells of is over; ids
only, never an argument's value. ``delivery`` is its row; of a transient one, which has none, a Transient. The log's
records have ids as attributes, too: ``receiver``, ``delivery``, ``event``, ``attempt``.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from .event import Event, delivery_id

if TYPE_CHECKING:
    from .outbox import Item
    from .wire import Item as Sent

logger = logging.getLogger("signalq")

delivery_captured = Signal()
"""Committed, in the sender's process: ``event_id`` (a UUID), ``using``, ``durable``."""
delivery_published = Signal()
"""The broker has a message for it: ``using`` and ``pk`` of its row, None for a transient one; ``result_id``, None for a
durable one; ``again``: by a relay, and not right after its commit."""
delivery_started = Signal()
"""Before the handler: ``delivery``, ``event`` (an Event, or the exception why there is none)."""
delivery_done = Signal()
"""The handler's work is committed: ``delivery``, ``outcome``, ``duration`` in seconds."""
delivery_retried = Signal()
"""The attempt failed, is rolled back, and another is due: ``delivery``, ``outcome``, ``duration``."""
delivery_dead = Signal()
"""The attempt failed, and no other is due: ``delivery``, ``outcome``, ``duration``; None where a relay gave it up."""
delivery_discarded = Signal()
"""There was nothing to do: ``delivery``, ``outcome``, ``duration``; None where nothing ran (expired, superseded)."""
lease_lost = Signal()
"""The delivery was given to another worker while this one ran it: ``delivery``."""
message_refused = Signal()
"""A broker message was not one of ours, forged or damaged; ``reason``. The sender is the task's name."""
breaker_changed = Signal()
"""This process leaves the broker alone for a while, or takes it up again: ``open``. There is no sender."""
relay_swept = Signal()
"""A relay has looked at each outbox. There is no sender."""

counts: Counter[str] = Counter()
"""How often each of them was sent in this process."""


@dataclass(frozen=True, slots=True)
class Transient:
    """What is told of a delivery without a row, by the names that a row has."""

    event: Event
    receiver: str
    attempt: int
    pk: None = None

    @property
    def event_id(self) -> uuid.UUID:
        """The event's."""
        return self.event.id

    @property
    def result_id(self) -> str:
        """Its id in the result backend, and the task's; its handler's ``idempotency_key``."""
        return str(delivery_id(self.event.id, self.receiver))


def captured(using: str, items: Iterable[Item]) -> None:
    """Tell that ``items`` are committed, if anybody listens."""
    if delivery_captured.receivers:
        from .receivers import registry

        for item in items:
            if receiver := registry.get(item.receiver):
                told = {"event_id": item.event_id, "using": using, "durable": item.durable}
                delivery_captured.send_robust(receiver, **told)


def published(items: Iterable[Sent], *, again: bool = False) -> None:
    """Tell that the broker has ``items``, if anybody listens."""
    if delivery_published.receivers:
        from .receivers import registry

        for item in items:
            if receiver := registry.get(item.receiver):
                told = {name: getattr(item, attribute, None) for name, attribute in _SENT.items()}
                delivery_published.send_robust(receiver, again=again, **told)


_SENT = {"using": "using", "pk": "id", "result_id": "task_id"}


def connect() -> None:
    """Count and log. Called by AppConfig.ready, after whoever is to hear of something before it is logged."""
    for signal, listener in _LOGGED.items():
        signal.connect(listener, dispatch_uid="signalq.log")


def _ids(sender: Any, delivery: Any) -> dict[str, Any]:
    return {
        "receiver": sender.name,
        "delivery": delivery.pk,
        "event": str(delivery.event_id),
        "attempt": delivery.attempt,
    }


def _name(sender: Any, delivery: Any) -> str:
    return f"{sender.name} #{delivery.pk}" if delivery.pk is not None else f"{sender.name} {delivery.result_id}"


def _done(sender: Any, delivery: Any, duration: float, **kwargs: Any) -> None:
    counts["done"] += 1
    if logger.isEnabledFor(logging.INFO):
        text, name = "%s done, attempt %d, %.0f ms", _name(sender, delivery)
        logger.info(text, name, delivery.attempt, duration * 1_000, extra=_ids(sender, delivery))


def _retried(sender: Any, delivery: Any, outcome: Any, **kwargs: Any) -> None:
    counts["retried"] += 1
    logger.warning(
        "%s failed, attempt %d, again in %.1f s: %s",
        _name(sender, delivery),
        delivery.attempt,
        outcome.countdown,
        type(outcome.error).__name__,
        extra=_ids(sender, delivery),
    )


def _dead(sender: Any, delivery: Any, outcome: Any, **kwargs: Any) -> None:
    counts["dead"] += 1
    if delivery.pk is None:
        return  # its task fails, and Celery says so
    logger.error(
        "%s #%s is dead after attempt %d: manage.py signalq replay %s once it is mended",
        sender.name,
        delivery.pk,
        delivery.attempt,
        delivery.pk,
        exc_info=outcome.error,
        extra=_ids(sender, delivery),
    )


def _discarded(sender: Any, delivery: Any, outcome: Any, **kwargs: Any) -> None:
    counts["discarded"] += 1
    logger.info("%s discarded: %s", _name(sender, delivery), outcome.error, extra=_ids(sender, delivery))


def _lease_lost(sender: Any, delivery: Any, **kwargs: Any) -> None:
    counts["lease_lost"] += 1
    text, name = "%s: attempt %d lost its lease; its writes are rolled back", _name(sender, delivery)
    logger.warning(text, name, delivery.attempt, extra=_ids(sender, delivery))


def _refused(sender: Any, reason: str, **kwargs: Any) -> None:
    counts["refused"] += 1
    text = "A message to %s was refused, number %d in this process: %s"
    logger.warning(text, sender, counts["refused"], reason, extra={"receiver": sender})


_LOGGED: dict[Signal, Callable[..., None]] = {
    delivery_done: _done,
    delivery_retried: _retried,
    delivery_dead: _dead,
    delivery_discarded: _discarded,
    lease_lost: _lease_lost,
    message_refused: _refused,
}

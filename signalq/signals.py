"""signalq's own signals, and the logging that listens to them.

Each is sent with the receiver (an AsyncReceiver) as its sender, in the worker; ids only, never an argument's value.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from django.dispatch import Signal, receiver

logger = logging.getLogger("signalq")

delivery_started = Signal()
"""Before the handler: ``delivery``."""
delivery_done = Signal()
"""The handler's work is committed: ``delivery``, ``outcome``, ``duration`` in seconds."""
delivery_retried = Signal()
"""The attempt failed and another is due: ``delivery``, ``outcome``, ``duration``."""
delivery_dead = Signal()
"""The attempt failed and no other is due: ``delivery``, ``outcome``, ``duration``."""
delivery_discarded = Signal()
"""There was nothing to do: ``delivery``, ``outcome``, ``duration``."""
lease_lost = Signal()
"""The delivery was given to another worker while this one ran it: ``delivery``."""
message_refused = Signal()
"""A broker message was not one of ours, forged or damaged; ``reason``. The sender is the task's name."""

counts: Counter[str] = Counter()
"""How often each of them was sent in this process."""


@receiver(delivery_done)
def _done(sender: Any, delivery: Any, duration: float, **kwargs: Any) -> None:
    counts["done"] += 1
    logger.info("%s #%s done, attempt %d, %.0f ms", sender.name, delivery.pk, delivery.attempt, duration * 1_000)


@receiver(delivery_retried)
def _retried(sender: Any, delivery: Any, outcome: Any, **kwargs: Any) -> None:
    counts["retried"] += 1
    logger.warning(
        "%s #%s failed, attempt %d, again in %.1f s: %s",
        sender.name,
        delivery.pk,
        delivery.attempt,
        outcome.countdown,
        type(outcome.error).__name__,
    )


@receiver(delivery_dead)
def _dead(sender: Any, delivery: Any, outcome: Any, **kwargs: Any) -> None:
    counts["dead"] += 1
    logger.error(
        "%s #%s is dead after attempt %d: manage.py signalq replay %s once it is mended",
        sender.name,
        delivery.pk,
        delivery.attempt,
        delivery.pk,
        exc_info=outcome.error,
    )


@receiver(delivery_discarded)
def _discarded(sender: Any, delivery: Any, outcome: Any, **kwargs: Any) -> None:
    counts["discarded"] += 1
    logger.info("%s #%s discarded: %s", sender.name, delivery.pk, outcome.error)


@receiver(lease_lost)
def _lease_lost(sender: Any, delivery: Any, **kwargs: Any) -> None:
    counts["lease_lost"] += 1
    logger.warning(
        "%s #%s: attempt %d lost its lease; its writes are rolled back", sender.name, delivery.pk, delivery.attempt
    )


@receiver(message_refused)
def _refused(sender: Any, reason: str, **kwargs: Any) -> None:
    counts["refused"] += 1
    logger.warning("A message to %s was refused, number %d in this process: %s", sender, counts["refused"], reason)

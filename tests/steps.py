"""Steps that tests take in place of the broker: run what is queued, sweep what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models.functions import Now

from signalq import execute
from signalq.models import Delivery
from signalq.queryset import State
from signalq.receivers import registry
from signalq.relay import Relay

if TYPE_CHECKING:
    from signalq.queryset import DeliveryQuerySet


def outbox(alias: str, **lookups: Any) -> DeliveryQuerySet:
    """The deliveries on `alias`, in the order of their ids."""
    return Delivery.objects.using(alias).filter(**lookups).order_by("pk")


def work(alias: str) -> None:
    """What a worker does with the messages of all that is queued now: one chunk for each receiver."""
    queued: dict[str, list[int]] = {}
    for name, pk in outbox(alias, state=State.QUEUED).values_list("receiver", "pk"):
        queued.setdefault(name, []).append(pk)
    for name, ids in queued.items():
        if name in registry:
            execute.run(registry[name], alias, ids)


def come_due(alias: str, **lookups: Any) -> None:
    """Let the time pass for every delivery that waits for it."""
    outbox(alias, due_at__isnull=False, **lookups).update(due_at=Now())


def sweep(alias: str) -> int:
    """One look of a relay."""
    return Relay([alias]).sweep(alias)


def states(alias: str) -> list[tuple[str, str, int]]:
    """(receiver, state, attempt) of each delivery."""
    return list(outbox(alias).values_list("receiver", "state", "attempt"))

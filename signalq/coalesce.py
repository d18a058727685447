"""Several events of one object, run once: what the one delivery that runs is told of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import codec
from .event import Event
from .exceptions import CaptureError, DecodeError
from .queryset import State

if TYPE_CHECKING:
    from .models import Delivery
    from .queryset import DeliveryQuerySet


def coalesce(
    outbox: DeliveryQuerySet, receivers: Sequence[str], claimed: list[Delivery]
) -> tuple[list[Delivery], list[Delivery]]:
    """Of ``claimed`` one for each key, with the events of all that waits under it; and the others, which are discarded.

    Inside the claim's transaction, and on rows that are locked without waiting: no user's transaction waits for it.
    Whatever comes later starts a wait of its own, so none is put off for longer than its receiver says.
    """
    by_key: dict[str, list[Delivery]] = {}
    for delivery in claimed:
        by_key.setdefault(delivery.key, []).append(delivery)
    for delivery in outbox.others_of(receivers, claimed):
        by_key[delivery.key].append(delivery)
    survivors = by_key.pop("", [])
    superseded: list[Delivery] = []
    for deliveries in by_key.values():
        try:
            superseded += _into_one(outbox, deliveries)
            survivors.append(deliveries[0])
        except (DecodeError, CaptureError):
            # One of them cannot be read: each finds out for itself.
            survivors.extend(delivery for delivery in deliveries if delivery.state == State.RUNNING)
    return sorted(survivors, key=lambda delivery: delivery.pk), superseded


def _into_one(outbox: DeliveryQuerySet, deliveries: list[Delivery]) -> list[Delivery]:
    """Merge ``deliveries`` into the first; the others, discarded."""
    survivor, *others = deliveries
    if others:
        in_order = sorted(deliveries, key=lambda delivery: delivery.pk)
        survivor.payload = codec.dump_event(merge([codec.load_event(row.payload) for row in in_order]), _as_it_is)
        survivor.save(using=survivor._state.db, update_fields=["payload"])
        outbox.give_up(others, "Superseded", f"Superseded by #{survivor.pk}, which runs for it, too.")
    return others


def _as_it_is(value: Any) -> Any:
    """What was loaded can be dumped; anything else is a fault of ours."""
    raise AssertionError(f"{value!r} came out of an event's text and does not go back in")


def merge(events: Sequence[Event]) -> Event:
    """One event that stands for ``events``, the oldest first: the last one's arguments, and what only others knew.

    ``created`` is True if it was for any; ``update_fields`` are those of all, or None if any saved every field; of the
    changes the oldest old value and the newest new one count.
    """
    last = events[-1]
    arguments = dict(last.arguments)
    if "created" in arguments:
        arguments["created"] = any(event.arguments.get("created") for event in events)
    if "update_fields" in arguments:
        fields = [event.arguments.get("update_fields") for event in events]
        arguments["update_fields"] = None if None in fields else frozenset().union(*fields)  # type: ignore[arg-type]
    return dataclasses.replace(last, arguments=arguments, changes=_merged_changes(events))


def _merged_changes(events: Sequence[Event]) -> dict[str, tuple[Any, Any]]:
    merged: dict[str, tuple[Any, Any]] = {}
    for event in events:
        for name, (old, new) in event.changes.items():
            merged[name] = (merged[name][0] if name in merged else old, new)
    return merged

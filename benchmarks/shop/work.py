"""What a handler does, the same in every variant; BENCH_WORK says which."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from django.db.models import F

from benchmarks.shop.models import Effect, Stock, Thing

STOCKS = 20


def by_pk(pk: int) -> None:
    """For a task that was given a primary key: load the row first."""
    with_thing(Thing.objects.get(pk=pk))


def with_thing(thing: Thing) -> None:
    """For a handler that has its instance."""
    _WORKS[os.environ.get("BENCH_WORK", "insert")](thing)


def with_things(things: Iterable[Thing]) -> None:
    """For a handler of many at once."""
    now = time.monotonic()
    Effect.objects.bulk_create(Effect(thing_id=thing.pk, at=now) for thing in things)


def _insert(thing: Thing) -> None:
    Effect.objects.create(thing_id=thing.pk, at=time.monotonic())


def _slow(thing: Thing) -> None:
    """As one that waits for another service."""
    at = time.monotonic()
    time.sleep(0.02)
    Effect.objects.create(thing_id=thing.pk, at=at)


def _shared(thing: Thing) -> None:
    Stock.objects.filter(pk=thing.pk % STOCKS + 1).update(count=F("count") + 1)


_WORKS: dict[str, Any] = {"insert": _insert, "slow": _slow, "shared": _shared}

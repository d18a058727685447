"""The web process: it saves, and says how long that took."""

from __future__ import annotations

import threading
import time
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models.signals import post_save

from benchmarks.inside.footprint import memory
from benchmarks.shop.models import Thing


def _warm_up() -> None:
    """As in a web process that has sent something before: signalq's background thread and its connection are there."""
    if "signalq" not in settings.INSTALLED_APPS:
        return
    from signalq.signals import delivery_captured, delivery_published

    captured, published = threading.Event(), threading.Event()
    ways = ((delivery_captured, captured), (delivery_published, published))
    for signal, event in ways:
        signal.connect(lambda event=event, **kwargs: event.set(), weak=False, dispatch_uid="warm up")
    with transaction.atomic():
        Thing(name="first").save()
    if captured.is_set() and not published.wait(10):
        raise TimeoutError("nothing was published")
    for signal, _ in ways:
        signal.disconnect(dispatch_uid="warm up")


def save_many(count: int) -> dict[str, Any]:
    """`count` saves in one transaction: seconds of wall time until it has returned from its commit.

    And seconds of CPU of every thread, until all is sent.
    """
    _warm_up()
    cpu, started = time.process_time(), time.perf_counter()
    with transaction.atomic():
        for _ in range(count):
            Thing(name="Ada").save()
        committing = time.monotonic()
    seconds = time.perf_counter() - started
    flush()
    return {"seconds": seconds / count, "cpu": (time.process_time() - cpu) / count, "committing": committing}


def save_each(count: int) -> dict[str, Any]:
    """`count` transactions of one save."""
    _warm_up()
    cpu, started = time.process_time(), time.perf_counter()
    for _ in range(count):
        with transaction.atomic():
            Thing(name="Ada").save()
    seconds = time.perf_counter() - started
    flush()
    return {"seconds": seconds / count, "cpu": (time.process_time() - cpu) / count}


def send_signals(count: int) -> dict[str, Any]:
    """`count` post_save signals without a save, in a transaction: for what is too little to be seen beside one."""
    thing = Thing.objects.create(name="Ada")
    started = time.perf_counter()
    with transaction.atomic():
        for _ in range(count):
            post_save.send(Thing, instance=thing, created=True, raw=False, using="default", update_fields=None)
    return {"seconds": (time.perf_counter() - started) / count}


def backlog(count: int) -> dict[str, Any]:
    """`count` things and their signals, sent and left to wait."""
    for start in range(0, count, 500):
        with transaction.atomic():
            things = Thing.objects.bulk_create(Thing(name="Ada") for _ in range(min(500, count - start)))
            for thing in things:
                post_save.send(Thing, instance=thing, created=True, raw=False, using="default", update_fields=None)
        flush()
    return {}


def save_paced(rate: float, count: int) -> dict[str, Any]:
    """One save a transaction at `rate` a second: each one's last moment before its commit, and the rate reached.

    Each waits for its turn on a timetable, so that a slow one makes the next ones late, and does not thin them out.
    Where the rate is out of reach it ends after one and a half times the time that all of them should have taken.
    """
    moments: dict[str, float] = {}
    started = time.monotonic()
    for number in range(count):
        if time.monotonic() - started > 1.5 * count / rate:
            break
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        with transaction.atomic():
            thing = Thing(name="Ada")
            thing.save()
            moments[str(thing.pk)] = time.monotonic()
    reached = len(moments) / (time.monotonic() - started)
    return {"moments": moments, "rate": reached}


def flush() -> dict[str, Any]:
    """Wait until signalq's background thread has sent what it was given; the others have none."""
    if "signalq" in settings.INSTALLED_APPS:
        from signalq.publish import publisher

        publisher.flush(10)
    return {}


def close() -> dict[str, Any]:
    connection.close()
    return {}


def burst(count: int, bound: int) -> dict[str, Any]:
    """`count` transactions of one save, with the publisher's queue `bound`: what waits in it, what it refuses."""
    from signalq import publish

    publish.QUEUE_SIZE = bound
    publish.publisher._start_over()
    refused: list[int] = []
    publish._forget = lambda items, reason: refused.append(len(items))
    before, longest, started = memory()["mib"], 0, time.perf_counter()
    for _ in range(count):
        with transaction.atomic():
            Thing(name="Ada").save()
        longest = max(longest, publish.publisher._items.qsize())
    return {
        "saves a second": count / (time.perf_counter() - started),
        "commits that wait, at most": longest,
        "refused, of all": sum(refused) / count,
        "memory, MiB more": memory()["mib"] - before,
    }

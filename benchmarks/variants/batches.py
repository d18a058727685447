"""celery-batches: the worker collects messages and calls the task with many. Sent by hand, as in hand.py."""

from __future__ import annotations

from functools import partial
from typing import Any

CELERY = True
APPS: list[str] = []
# Its documentation: a worker has to fetch more than a batch ahead.
SETTINGS = {"CELERY_WORKER_PREFETCH_MULTIPLIER": 0}


def connect() -> None:
    from celery_batches import Batches
    from django.db import transaction
    from django.db.models.signals import post_save

    from benchmarks import celeryapp
    from benchmarks.shop import work
    from benchmarks.shop.models import Thing

    @celeryapp.app.task(name="benchmarks.handle", base=Batches, flush_every=100, flush_interval=1, ignore_result=True)
    def handle(requests: list[Any]) -> None:
        found = Thing.objects.in_bulk([request.args[0] for request in requests])
        work.with_things(found.values())

    def delay(instance: Thing, **kwargs: Any) -> None:
        transaction.on_commit(partial(handle.delay, instance.pk))

    post_save.connect(delay, sender=Thing, weak=False)

"""The hand-written way: a receiver that sends a Celery task after the commit; the task loads the row."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

CELERY = True
APPS: list[str] = []


def connect() -> None:
    from celery import shared_task
    from django.db import transaction
    from django.db.models.signals import post_save

    from benchmarks import celeryapp
    from benchmarks.shop import work
    from benchmarks.shop.models import Thing

    @shared_task(name="benchmarks.handle", ignore_result=True)
    def handle(pk: int) -> None:
        work.by_pk(pk)

    def delay(instance: Thing, **kwargs: Any) -> None:
        transaction.on_commit(partial(handle.delay, instance.pk))

    def delay_on_commit(instance: Thing, **kwargs: Any) -> None:
        handle.delay_on_commit(instance.pk)

    waiting: list[int] = []

    def send() -> None:
        """All of a transaction's in one batch of kombu's."""
        pks, waiting[:] = list(waiting), []
        with celeryapp.app.producer_pool.acquire(block=True) as producer, producer.batch():
            for pk in pks:
                handle.apply_async((pk,), producer=producer)

    def collect(instance: Thing, **kwargs: Any) -> None:
        if not waiting:
            transaction.on_commit(send)
        waiting.append(instance.pk)

    ways = {"delay": delay, "delay_on_commit": delay_on_commit, "producer batch": collect}
    post_save.connect(ways[os.environ["BENCH_FLAVOUR"]], sender=Thing, weak=False)

"""rq on Redis, enqueued after the commit."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

APPS: list[str] = []


def handle(pk: int) -> None:
    from django.db import connections

    from benchmarks.shop import work

    # A job runs in a fork of the worker, whose connection it must not share.
    connections.close_all()
    work.by_pk(pk)


def connect() -> None:
    from django.db import transaction
    from django.db.models.signals import post_save
    from redis import Redis
    from rq import Queue

    from benchmarks.shop.models import Thing

    queue = Queue(connection=Redis.from_url(os.environ["BENCH_REDIS"]))

    def enqueue(instance: Thing, **kwargs: Any) -> None:
        transaction.on_commit(partial(queue.enqueue, handle, instance.pk, result_ttl=0))

    post_save.connect(enqueue, sender=Thing, weak=False)

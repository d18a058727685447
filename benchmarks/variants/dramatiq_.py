"""dramatiq on Redis, sent after the commit."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

APPS: list[str] = []


def connect() -> None:
    import dramatiq
    from django.db import close_old_connections, transaction
    from django.db.models.signals import post_save
    from dramatiq.brokers.redis import RedisBroker

    from benchmarks.shop import work
    from benchmarks.shop.models import Thing

    dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))

    @dramatiq.actor(actor_name="benchmarks_handle")
    def handle(pk: int) -> None:
        # What django-dramatiq's middleware does around each message.
        close_old_connections()
        work.by_pk(pk)
        close_old_connections()

    def send(instance: Thing, **kwargs: Any) -> None:
        transaction.on_commit(partial(handle.send, instance.pk))

    post_save.connect(send, sender=Thing, weak=False)

"""django-q-signals: receivers that run in a django-q2 cluster. It sends at once, inside the transaction."""

from __future__ import annotations

import os
from typing import Any

APPS = ["django_q"]
SETTINGS = {
    "Q_CLUSTER": {
        "name": "benchmarks",
        "workers": 2,
        "redis": os.environ.get("BENCH_REDIS", ""),
        "timeout": 60,
        "retry": 120,
        "log_level": "ERROR",
    }
}


def handle(sender: Any, instance: Any, **kwargs: Any) -> None:
    from benchmarks.shop import work

    # None when the transaction that sent the signal is not committed yet.
    if instance is not None:
        work.with_thing(instance)


def connect() -> None:
    from django.db.models.signals import post_save
    from django_q_signals import async_receiver

    from benchmarks.shop.models import Thing

    async_receiver(post_save, sender=Thing, weak=False)(handle)

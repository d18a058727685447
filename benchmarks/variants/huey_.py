"""huey on Redis, sent after the commit."""

from __future__ import annotations

import os
from typing import Any

APPS = ["huey.contrib.djhuey"]
SETTINGS = {
    "HUEY": {
        "name": "benchmarks",
        "immediate": False,
        "results": False,
        "connection": {"url": os.environ.get("BENCH_REDIS", "")},
        "consumer": {"workers": 2, "worker_type": "process"},
    }
}


def connect() -> None:
    from django.db.models.signals import post_save
    from huey.contrib.djhuey import on_commit_task

    from benchmarks.shop import work
    from benchmarks.shop.models import Thing

    @on_commit_task(name="benchmarks_handle")
    def handle(pk: int) -> None:
        work.by_pk(pk)

    def send(instance: Thing, **kwargs: Any) -> None:
        handle(instance.pk)

    post_save.connect(send, sender=Thing, weak=False)

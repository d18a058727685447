"""signalq."""

from __future__ import annotations

import importlib
import os
from typing import Any

CELERY = True
APPS = ["signalq"]


def connect() -> None:
    from django.conf import settings
    from django.contrib.auth.models import Group
    from django.db.models.signals import post_save

    from benchmarks.shop import work
    from benchmarks.shop.models import Thing
    from signalq import async_batch_receiver, async_receiver

    for name, value in getattr(settings, "BENCH_CONSTANTS", {}).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)

    def handle(instance: Thing, **kwargs: Any) -> None:
        work.with_thing(instance)

    def handle_many(events: list[Any]) -> None:
        work.with_things([event.arguments["instance"] for event in events])

    name = "benchmarks.handle"
    flavour = os.environ["BENCH_FLAVOUR"]
    if flavour == "batch":
        async_batch_receiver(post_save, sender=Thing, name=name, size=100)(handle_many)
        return
    options: dict[str, dict[str, Any]] = {
        "durable": {"sender": Thing},
        "transient": {"sender": Thing, "durable": False},
        "when false": {"sender": Thing, "when": lambda **kwargs: False},
        "other sender": {"sender": Group},
    }
    async_receiver(post_save, name=name, **options[flavour])(handle)

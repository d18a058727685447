"""procrastinate: jobs are rows of PostgreSQL, deferred in the transaction."""

from __future__ import annotations

from typing import Any

APPS = ["procrastinate.contrib.django"]


def connect() -> None:
    from django.db.models.signals import post_save
    from procrastinate.contrib.django import app

    from benchmarks.shop import work
    from benchmarks.shop.models import Thing

    @app.task(name="benchmarks.handle")
    def handle(pk: int) -> None:
        work.by_pk(pk)

    def defer(instance: Thing, **kwargs: Any) -> None:
        handle.defer(pk=instance.pk)

    post_save.connect(defer, sender=Thing, weak=False)

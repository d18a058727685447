"""django-celery-outbox: its Celery app stores every task that is sent; its relay sends them on."""

from __future__ import annotations

from typing import Any

CELERY = True
APPS = ["django_celery_outbox"]
SETTINGS = {"CELERY_OUTBOX_APP": "benchmarks.celeryapp.app"}


def connect() -> None:
    from django.db.models.signals import post_save

    from benchmarks import celeryapp
    from benchmarks.shop import work
    from benchmarks.shop.models import Thing

    @celeryapp.app.task(name="benchmarks.handle", ignore_result=True)
    def handle(pk: int) -> None:
        work.by_pk(pk)

    def store(instance: Thing, **kwargs: Any) -> None:
        handle.delay(instance.pk)

    post_save.connect(store, sender=Thing, weak=False)

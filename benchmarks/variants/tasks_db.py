"""django-tasks-db: Django's task framework with tasks as rows, enqueued in the transaction."""

from __future__ import annotations

from typing import Any

import django

APPS = ["django_tasks_db"] if django.VERSION >= (6, 0) else ["django_tasks", "django_tasks_db"]
SETTINGS = {"TASKS": {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}}


def connect() -> None:
    from django.db.models.signals import post_save

    from benchmarks.shop.models import Thing
    from benchmarks.variants.tasks_db_tasks import handle

    def enqueue(instance: Thing, **kwargs: Any) -> None:
        handle.enqueue(instance.pk)

    post_save.connect(enqueue, sender=Thing, weak=False)

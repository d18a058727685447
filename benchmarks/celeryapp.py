"""The conventional Celery app of a Django project; for django-celery-outbox its own kind of one."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

if os.environ.get("BENCH_VARIANT") == "celery_outbox":
    from django_celery_outbox import OutboxCelery as Celery  # type: ignore[no-redef]

app = Celery("benchmarks")
app.config_from_object("django.conf:settings", namespace="CELERY")

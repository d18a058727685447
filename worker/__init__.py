"""The Celery app of the demo: `celery -A worker worker`, or `python -m worker`."""

import os

from celery import Celery

from worker import alive
from worker.settings import DEFAULTS

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("worker")

# Defaults, so that a CELERY_... line in the Django settings still has the last word.
app.add_defaults(lambda: DEFAULTS)
app.config_from_object("django.conf:settings", namespace="CELERY")

# For tasks.py modules. Receivers need no discovery: each app's ready() imports them.
app.autodiscover_tasks()

alive.connect()

__all__ = ["app"]

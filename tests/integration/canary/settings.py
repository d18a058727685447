"""Everything that might show an argument is on: task events, sent events, results."""

from tests.integration.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as TESTED_APPS

INSTALLED_APPS = [*TESTED_APPS, "tests.integration.canary"]
CELERY_RESULT_BACKEND = "django-db"
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_TASK_SEND_SENT_EVENT = True
CELERY_TASK_TRACK_STARTED = True

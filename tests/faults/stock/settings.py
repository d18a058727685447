"""Settings of the processes of these tests; signalq's own at their defaults."""

from tests.integration.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as TESTED_APPS

INSTALLED_APPS = [*TESTED_APPS, "tests.faults.stock"]
SIGNALQ: dict[str, object] = {}
# What both pay otherwise is a new connection for each message, which is the control's loss alone.
CELERY_DB_REUSE_MAX = 1000
# Two workers of one name on one machine would want the same queue for it.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False

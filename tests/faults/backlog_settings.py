"""Settings of the backlog's processes: those of the integration tests, and what is published is counted."""

import json
import os

from tests.integration.settings import *  # noqa: F403
from tests.integration.settings import INSTALLED_APPS as SHOP_APPS

INSTALLED_APPS = [*SHOP_APPS, "tests.faults.counting"]
# Two workers of one name on one RabbitMQ: it would refuse the second its control queue.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
SIGNALQ: dict[str, object] = json.loads(os.environ.get("SIGNALQ_FAULTS_SETTINGS", "{}"))

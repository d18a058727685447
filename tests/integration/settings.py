"""Settings of the processes that the integration tests start: one of the test databases, a real broker, and every
setting of signalq at its default."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES as FOUND, INSTALLED_APPS as TESTED_APPS

DATABASES = {"default": FOUND[os.environ.get("SIGNALQ_TEST_ALIAS", "default")]}
INSTALLED_APPS = [*TESTED_APPS, "tests.integration.shop"]
SIGNALQ: dict[str, object] = {}
CELERY_BROKER_URL = os.environ.get("BROKER_URL", "memory://")

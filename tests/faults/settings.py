"""Settings of the processes of the fault tests: those of the integration tests, with a shop that has both kinds of
receivers, and signalq's own settings as the test asks for them (its defaults unless told)."""

import json
import os

from tests.integration.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as TESTED_APPS

INSTALLED_APPS = [*TESTED_APPS, "tests.faults.shop"]
SIGNALQ: dict[str, object] = json.loads(os.environ.get("SIGNALQ_FAULTS_SETTINGS", "{}"))

"""Settings of processes of different versions: SIGNALQ_FAULTS_VERSION says which, SIGNALQ_FAULTS_SETTINGS the rest."""

import json
import os

from tests.integration.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as TESTED_APPS

INSTALLED_APPS = [*TESTED_APPS, "tests.faults.versions"]
SIGNALQ: dict[str, object] = json.loads(os.environ.get("SIGNALQ_FAULTS_SETTINGS", "{}"))

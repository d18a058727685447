"""Settings of a site behind a web server, and of its worker: no relay unless it is asked for."""

import json
import os

from tests.integration.settings import *  # noqa: F403

ROOT_URLCONF = "tests.faults.website"
SIGNALQ: dict[str, object] = {"RELAY": False, **json.loads(os.environ.get("SIGNALQ_FAULTS_SETTINGS", "{}"))}
# uWSGI has no logging of its own, and gunicorn's is not for applications.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"signalq": {"handlers": ["console"], "level": "INFO"}, "django.request": {"handlers": ["console"]}},
}

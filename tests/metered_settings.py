"""Settings of a process that counts for Prometheus and asks no database."""

from tests.settings import *  # noqa: F403

SIGNALQ = {"PUBLISH": False, "RELAY": False, "METRICS": True}

"""What every handler does: a row, and a line in a file for what lies outside the database."""

import os
import signal
import time
from pathlib import Path

from tests.testapp.models import Effect, Intent

HANDLER_SECONDS = float(os.environ.get("SIGNALQ_FAULTS_HANDLER_SECONDS", "0"))


def handle(receiver: str, intent: Intent) -> None:
    _note("begun.log", f"{receiver} {os.getpid()}")
    time.sleep(HANDLER_SECONDS / 2)
    if receiver == "first" and intent.name.endswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    Effect.objects.create(receiver=receiver, object_pk=str(intent.pk), note=repr(time.time()))
    _note("outside.log", f"{receiver} {intent.pk}")
    time.sleep(HANDLER_SECONDS / 2)


def _note(name: str, line: str) -> None:
    """A line that is there whole or not at all, whoever else writes."""
    path = Path(os.environ["SIGNALQ_TEST_SCRATCH"]) / name
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)

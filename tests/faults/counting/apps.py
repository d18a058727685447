import os
import sys
from pathlib import Path
from typing import Any

from celery.signals import before_task_publish
from django.apps import AppConfig

PROCESS = "worker" if "worker" in sys.argv else "relay" if "relay" in sys.argv else "saver"


class CountingConfig(AppConfig):
    name = "tests.faults.counting"

    def ready(self) -> None:
        before_task_publish.connect(note, dispatch_uid="counting")


def note(sender: str, body: Any, **kwargs: Any) -> None:
    arguments = body[0]
    if len(arguments) == 2 and isinstance(arguments[1], list):
        path = Path(os.environ["SIGNALQ_TEST_SCRATCH"]) / f"published-by-{PROCESS}.log"
        with path.open("a") as log:
            log.write(f"{len(arguments[1])}\n")

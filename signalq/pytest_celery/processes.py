"""A process with docker-py's words for a container, which are those that pytest-celery speaks."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

# It waits for the end of a pipe whose other end only the tests hold: the kernel closes that even after a SIGKILL.
_WATCHDOG = ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "signalq-watchdog"]


class LocalProcess:
    """A program and everything that it starts, in a process group of their own, with their output in one file.

    It ends with the process that made it, however that ends.
    """

    # Neither a network nor a port of its own.
    attrs: ClassVar[dict[str, Any]] = {"NetworkSettings": {"Networks": {}, "Ports": {}}, "Config": {"Env": []}}

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name, self.command, self.env, self.cwd, self.log = name, list(command), dict(env), cwd, log
        self.id = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._begun_at = 0

    def start(self) -> None:
        """Start it, and return at once."""
        with self.log.open("ab") as output:
            self._begun_at = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the command of whoever writes the test
                self.command,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(  # noqa: S603
            [*_WATCHDOG, str(self._process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def pid(self) -> int | None:
        """Of the program itself, also when it has ended; also the number of the process group."""
        return self._process.pid if self._process else None

    @property
    def status(self) -> str:
        """ "created", "running" or "exited"."""
        if self._process is None:
            return "created"
        return "running" if self._process.poll() is None else "exited"

    def reload(self) -> None:
        """docker-py asks its engine here; a process is asked each time."""

    def logs(self) -> bytes:
        """All that it has written, also before a restart."""
        return self.log.read_bytes() if self.log.exists() else b""

    def logs_since_start(self) -> bytes:
        """What it has written since it was started last."""
        return self.logs()[self._begun_at :]

    def kill(self, signal: str | int | None = None) -> None:
        """SIGKILL ends it and its children at once; any other signal goes to the program alone, as in a container."""
        number = _number(signal)
        if number == _KILL:
            self._end()
        elif self._process is not None:
            self._process.send_signal(number)

    def stop(self, timeout: float = 10) -> None:
        """Ask it to end, and after ``timeout`` seconds end it with its children."""
        if self._process is not None and self.status == "running":
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._end()

    def restart(self, timeout: float = 10) -> None:
        """Stop it if it runs, and start it again; returns at once then."""
        self.stop(timeout)
        self.start()

    def exec_run(self, cmd: str | Sequence[str], **kwargs: Any) -> tuple[int, bytes]:
        """Run another program in its environment: exit code and output. ``kwargs`` of docker-py are not known here."""
        if kwargs:
            raise TypeError(f"exec_run in a local process knows no {', '.join(kwargs)}.")
        command = shlex.split(cmd) if isinstance(cmd, str) else list(cmd)
        done = subprocess.run(  # noqa: S603
            command, cwd=self.cwd, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return done.returncode, done.stdout

    def _end(self) -> None:
        if self._process is None:
            return
        # The group outlives its leader while any child is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, _KILL)
        self._process.wait()
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None


_KILL = signal.SIGKILL


def _number(name: str | int | None) -> signal.Signals:
    if name is None:
        return _KILL
    if isinstance(name, str):
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    return signal.Signals(name)

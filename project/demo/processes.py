"""Child processes that never outlive the demo, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def say(text: str, where: TextIO | None = None) -> None:
    print(text, file=where, flush=True)  # a command line speaks like this


class Watched(Protocol):
    """Something that should run."""

    def check(self) -> None:
        """Raise ServiceError if it has ended without being asked to."""


class ServiceError(RuntimeError):
    """Something that the demo needs cannot be had, or has ended; the message says what to do, or why."""


class Interrupted(BaseException):
    """Ctrl-C, or a polite kill: time to stop everything."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupts:
    """Turns the signals that end a program into Interrupted, but never in the middle of a start or a stop."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.held = 0
        self.pending: int | None = None
        for number in self.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        if self.held:
            self.pending = number
        else:
            raise Interrupted(number)

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *exc: object) -> None:
        self.held -= 1
        if not self.held and self.pending is not None:
            number, self.pending = self.pending, None
            raise Interrupted(number)


# It waits for the end of a pipe whose other end only the demo holds. The kernel closes that even after SIGKILL.
WATCHDOG = ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "demo-watchdog"]


class Service:
    """A Python module run in a process group of its own, so that its children can be ended with it."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path, fds: Sequence[int] = ()) -> None:
        self.name, self.log, self.fds = name, log, fds
        self.command = [sys.executable, "-m", module, *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=self.fds,
                # Ctrl-C in the terminal reaches the demo alone, which then stops its children in their order.
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(  # noqa: S603
            [*WATCHDOG, str(self.process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def check(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            raise ServiceError(f"{self.name} ended with exit code {self.process.returncode}:\n{self.last_lines()}")

    def last_lines(self, number: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-number:])

    def ask_to_end(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def stop(self, patience: float = 6.0) -> None:
        """Ask it to end, and after `patience` seconds end it with all its children."""
        if self.process is None:
            return
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.kill()

    def kill(self) -> None:
        """End the whole process tree at once, as a power cut would."""
        if self.process is None:
            return
        # The group outlives its leader while any child is left.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()


def until(condition: Callable[[], Any], what: str, services: Sequence[Watched] = (), timeout: float = 60.0) -> Any:
    """Wait until `condition()` is true and return what it returned; TimeoutError says what did not happen."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        for service in services:
            service.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.05)
    return result

"""Measured processes, seen from the runner: asked one thing at a time, and ended to the last child."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]


class VariantError(Exception):
    """A variant does not run here; the message says why. It is reported, and the others go on."""


class Process:
    """A child in a session of its own, its output in a log."""

    def __init__(self, command: Sequence[str], env: dict[str, str], log: Path, *, pipe: bool = False) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else output,
                stderr=output,
                start_new_session=True,
                text=True,
            )

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def end(self) -> None:
        """SIGKILL to all of the tree: what was measured is measured."""
        try:
            tree = [*self.children(), psutil.Process(self.popen.pid)]
        except psutil.NoSuchProcess:
            tree = []
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait(timeout=10)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()


class Inside(Process):
    """`python -m benchmarks.inside` of one variant."""

    def __init__(self, python: str, env: dict[str, str], log: Path) -> None:
        super().__init__([python, "-m", "benchmarks.inside"], env, log, pipe=True)
        self._answer()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.popen.stdin is not None  # noqa: S101
        self.popen.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.popen.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.popen.stdout is not None  # noqa: S101
        line = self.popen.stdout.readline()
        if not line:
            raise VariantError(f"the process has ended:\n{self.tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise VariantError(answer["error"])
        return answer


def wait_until(condition: Any, what: str, timeout: float, poll: float = 0.05) -> None:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout:
            raise VariantError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(poll)


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

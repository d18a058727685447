"""Do a worker and a relay still turn? Each leaves a mark every few seconds, and a health check sees how old it is.

    ALIVE_DIR=/tmp/alive python -m worker                        marks /tmp/alive/worker, and its relay /tmp/alive/relay
    ALIVE_DIR=/tmp/alive python -I worker/alive.py worker relay  exit status 1 if a mark is missing or older than 30 s

The check runs as a file, with the standard library alone: 20 ms of a CPU, where a Django command takes a second. And it
sends nothing: `celery inspect ping` needs the remote control that worker/settings.py turns off.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

VARIABLE = "ALIVE_DIR"
# While its loop turns and its broker answers, a worker's heart beats every 2 seconds; a relay sweeps about every one.
STALE = 30.0
"""Seconds."""


def connect() -> None:
    """Leave the marks of this process, whichever it is, where the environment says so."""
    if not os.environ.get(VARIABLE):
        return
    from celery.signals import heartbeat_sent

    from signalq.signals import relay_swept

    heartbeat_sent.connect(_worker_turns, dispatch_uid="worker.alive")
    relay_swept.connect(_relay_turns, dispatch_uid="worker.alive")


def _worker_turns(**kwargs: object) -> None:
    _mark("worker")


def _relay_turns(**kwargs: object) -> None:
    _mark("relay")


def _mark(name: str) -> None:
    directory = Path(os.environ[VARIABLE])
    directory.mkdir(exist_ok=True)
    (directory / name).touch()


def trouble(name: str) -> str:
    """What is wrong with this mark; nothing if it is fresh."""
    try:
        age = time.time() - (Path(os.environ[VARIABLE]) / name).stat().st_mtime
    except FileNotFoundError:
        return f"{name}: no sign of life yet"
    return f"{name}: no sign of life for {age:.0f} s" if age > STALE else ""


if __name__ == "__main__":
    sys.exit("\n".join(filter(None, map(trouble, sys.argv[1:]))) or 0)

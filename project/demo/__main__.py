"""`python -m project.demo` plays the scenario and checks it; with `--serve` it leaves everything running for you."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from project import environment
from project.demo.processes import Interrupted, Interrupts, ServiceError, say
from project.demo.stack import Stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m project.demo", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="leave everything running and print the address")
    arguments = parser.parse_args()
    interrupts = Interrupts()
    # A directory of its own for each scenario; one that stays, unless it is in use, for what a person does.
    kept = os.environ.get("DEMO_DIR") or arguments.serve
    directory = _own_directory() if kept else Path(tempfile.mkdtemp(prefix="signalq-demo-"))
    stack = Stack(directory, interrupts)
    code = 1
    try:
        stack.start()
        code = _serve(stack) if arguments.serve else _play(stack)
    except Interrupted as interrupted:
        say(f"\nStopping ({interrupted}).")
        code = 0 if arguments.serve else 128 + interrupted.number
    except ServiceError as error:
        say(str(error), sys.stderr)
    finally:
        with contextlib.suppress(Interrupted):
            stack.stop()
        if code == 1:
            say(f"Logs: {directory}", sys.stderr)
        elif not kept:
            shutil.rmtree(directory, ignore_errors=True)
    return code


def _own_directory() -> Path:
    """The directory of the settings, or another if a demo runs there: two would share database and mails."""
    directory = environment.directory()
    directory.mkdir(parents=True, exist_ok=True)
    # Open until this process ends, and so is the lock.
    lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = Path(tempfile.mkdtemp(prefix="signalq-demo-"))
        say(f"{directory} is in use by another demo; this one uses {other}.")
        return other
    return directory


def _serve(stack: Stack) -> int:
    say(f"Open {stack.url}  (Ctrl-C ends it; data and logs: {stack.directory})")
    while True:
        for service in stack.services:
            service.check()
        time.sleep(1)


def _play(stack: Stack) -> int:
    from project.demo.play import play  # it imports models, which exist only now

    return play(stack)


if __name__ == "__main__":
    sys.exit(main())

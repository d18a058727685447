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
from typing import TextIO

from project import environment
from project.demo.processes import Interrupted, Interrupts, ServiceError
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


def say(text: str, where: TextIO | None = None) -> None:
    print(text, file=where, flush=True)  # a command line speaks like this


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
    # These import models, which exist only now.
    from project.demo import report
    from project.demo.checks import Checks
    from project.demo.scenario import Scenario

    began = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began:5.1f} s  {text}")

    scenario = Scenario(stack, tell)
    problem = ""
    try:
        scenario.play()
    except TimeoutError as error:
        problem = str(error)
    tell("checking")
    mails = stack.directory / "mail"
    found = Checks(scenario, mails).all()
    say(f"\n{report.table(scenario)}\n\n{report.mails(mails)}\n\nExpectations:\n{report.expectations(found)}\n")
    if problem:
        say(f"The scenario was not played to its end: {problem}", sys.stderr)
    failed = sum(not each.holds for each in found) + bool(problem)
    say(f"{len(found)} expectations, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

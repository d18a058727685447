"""A process that saves in a loop: the web process of the fault tests.

    python -m tests.faults.mill --seed 7 --requests 500 --rate 100
    python -m tests.faults.mill --seed 7 --kills 50 --die random

Each request is a transaction: one intent, a few, one that is rolled back, or one with a savepoint that is. What a
request took is a line of `requests-CODE.log`: its begin, its seconds, and the error if there was one. With --kills the
requests run in a child, forked anew after each death. The children die by SIGKILL: `after` the commit and before any
hook of it, `before` the commit, or at a `random` moment.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = os.environ.get("SIGNALQ_FAULTS_CODE", "both")
LIFE = 0.002, 0.05
"""Seconds that a child lives which dies at a random moment, from its first request on."""


class UndoneError(Exception):
    """Leaves an atomic block by the back door."""


class Mill:
    """Requests in an order that the seed decides."""

    def __init__(self, seed: int, rate: float, scratch: Path, poison: int = 0) -> None:
        self.poison = poison
        self.random = random.Random(seed)
        self.rate = rate
        self.log = (scratch / f"requests-{CODE}.log").open("a", buffering=1)

    def run(self, requests: int, stop: Path) -> None:
        """So many requests, or until the file `stop` is there."""
        for _ in range(requests):
            if stop.exists():
                return
            started = time.time()
            problem = self.request()
            seconds = time.time() - started
            self.log.write(f"{started!r} {seconds!r} {problem}\n")
            time.sleep(max(0.0, 1 / self.rate - seconds))

    def request(self, before_commit: Callable[[], Any] | None = None, hook: Callable[[], Any] | None = None) -> str:
        """One request; the name of the exception that it ended with."""
        from django.db import close_old_connections, transaction

        kind = self.random.choices(["one", "few", "undone", "savepoint"], [70, 12, 9, 9])[0]
        close_old_connections()
        try:
            with transaction.atomic():
                if hook:
                    transaction.on_commit(hook)
                self.save(self.random.randint(2, 8) if kind == "few" else 1)
                if kind == "savepoint":
                    self.undone(2)
                if kind == "undone":
                    raise UndoneError
                if before_commit:
                    before_commit()
        except UndoneError:
            return ""
        except Exception as error:  # noqa: BLE001 - a request ends with an error page, not with its process
            return type(error).__name__
        return ""

    def save(self, count: int) -> None:
        from tests.testapp.models import Intent

        for _ in range(count):
            name = f"{CODE} {time.time()!r}"
            if self.poison:
                self.poison -= 1
                name += " poison"
            Intent(name=name).save()

    def undone(self, count: int) -> None:
        from django.db import transaction

        try:
            with transaction.atomic():
                self.save(count)
                raise UndoneError
        except UndoneError:
            pass

    def live(self, die: str) -> None:
        """A few requests, and death."""
        for _ in range(self.random.randint(0, 5)):
            self.request()
        while True:  # one that is rolled back does not get there
            self.request(_die if die == "before" else None, _die if die == "after" else None)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lives(arguments: argparse.Namespace, scratch: Path) -> None:
    """One child after the other. Nothing here opens a connection before the fork."""
    choose = random.Random(arguments.seed)
    for number in range(arguments.kills):
        born, says = os.pipe()
        child = os.fork()
        if child == 0:
            mill = Mill(arguments.seed * 100_003 + number, arguments.rate, scratch)
            mill.request()
            os.write(says, b".")
            mill.live(arguments.die)
        os.close(says)
        os.read(born, 1)
        os.close(born)
        if arguments.die == "random":
            time.sleep(choose.uniform(*LIFE))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"child {number} ended with status {status} instead of being killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--poison", type=int, default=0, help="so many intents whose first handler kills its process")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--die", choices=["after", "before", "random"], default="random")
    arguments = parser.parse_args()
    django.setup()
    scratch = Path(os.environ["SIGNALQ_TEST_SCRATCH"])
    if arguments.kills:
        lives(arguments, scratch)
    if arguments.requests:
        Mill(arguments.seed, arguments.rate, scratch, arguments.poison).run(
            arguments.requests, scratch / "stop-milling"
        )


if __name__ == "__main__":
    main()

"""What each delivery pays for: capturing its event, recording it with a save, running it, and a relay's sweep.

    python benchmarks/hot_path.py                         this tree alone
    python benchmarks/hot_path.py --against ../other      this tree and another by turns, and the ratios

On the PostgreSQL of the tests, without a broker: milliseconds, the median of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORDED, RUN, SWEPT = 1_000, 1_000, 10_000
HERE = Path(__file__).resolve().parents[1]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def measure() -> None:
    """In a process of its own: one round for each line that comes in."""
    import django

    django.setup()
    from django.test.utils import setup_databases, teardown_databases

    made = setup_databases(verbosity=0, interactive=False, aliases=["default"])
    try:
        rounds = _rounds()
        say("ready")
        for _ in sys.stdin:
            say(json.dumps({name: _milliseconds(work) for name, work in rounds.items()}))
    finally:
        teardown_databases(made, verbosity=0)


def _milliseconds(work: Callable[[], Callable[[], Any]]) -> float:
    timed = work()
    started = time.perf_counter()
    timed()
    return 1000 * (time.perf_counter() - started)


def _rounds() -> dict[str, Callable[[], Callable[[], Any]]]:
    from django.db import connection, transaction
    from django.db.models.functions import Now
    from django.db.models.signals import post_save

    from signalq import async_receiver, conf, execute, wire
    from signalq.models import Delivery
    from signalq.relay import Relay
    from tests.testapp.models import Author

    receiver = async_receiver(post_save, sender=Author, name="benchmark")(lambda **kwargs: None)
    wire.Channel.send = lambda self, items: list(items)  # type: ignore[assignment,method-assign,return-value]
    wire.Channel.depth = lambda self, queue: 0  # type: ignore[method-assign]
    outbox = Delivery.objects.using("default")

    def save(number: int) -> None:
        with transaction.atomic():
            for _ in range(number):
                Author(name="Ada").save()

    def send(author: Author) -> None:
        arguments = {"instance": author, "created": True, "update_fields": None, "raw": False, "using": "default"}
        with transaction.atomic():
            for _ in range(RECORDED):
                post_save.send(Author, **arguments)
            transaction.set_rollback(True)

    def empty() -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE signalq_delivery, testapp_author, testapp_book CASCADE")

    def capture() -> Callable[[], Any]:
        empty()
        author = Author.objects.create(name="Ada")
        return lambda: send(author)

    def record() -> Callable[[], Any]:
        empty()
        return lambda: save(RECORDED)

    def run() -> Callable[[], Any]:
        empty()
        save(RUN)
        ids = list(outbox.order_by("pk").values_list("pk", flat=True))
        size = conf.current().CHUNK
        chunks = [ids[start : start + size] for start in range(0, len(ids), size)]
        return lambda: [execute.run(receiver, "default", chunk) for chunk in chunks]

    def sweep() -> Callable[[], Any]:
        empty()
        save(1)
        columns = ", ".join(field.column for field in Delivery._meta.fields if field.column != "id")
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO signalq_delivery ({columns}) SELECT {columns}"  # noqa: S608 - the model's own names
                f" FROM signalq_delivery, generate_series(2, {SWEPT})"
            )
        outbox.update(due_at=Now())
        return lambda: Relay(["default"]).sweep("default")

    return {f"capture {RECORDED}": capture, f"record {RECORDED}": record, f"run {RUN}": run, f"sweep {SWEPT}": sweep}


class Tree:
    """A checkout, measured in a process that imports it and has a database of its own."""

    def __init__(self, path: Path, slot: int) -> None:
        env = {"PYTHONPATH": str(path), "DJANGO_SETTINGS_MODULE": "tests.settings", "SIGNALQ_TEST_SLOT": str(slot)}
        command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
        self.process = subprocess.Popen(  # noqa: S603 - this file
            command, cwd=path, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.taken: list[dict[str, float]] = []
        self._answer()

    def _answer(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit("the measuring process has ended")
        return line

    def round(self) -> None:
        if self.process.stdin:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        self.taken.append(json.loads(self._answer()))

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure()
        return
    paths = [HERE] + ([arguments.against.resolve()] if arguments.against else [])
    trees = [Tree(path, 80 + number) for number, path in enumerate(paths)]
    for number in range(arguments.rounds + 1):
        for tree in trees if number % 2 else reversed(trees):
            tree.round()
    for tree in trees:
        tree.end()
    for name in trees[0].taken[0]:
        # The first round warms up.
        medians = [statistics.median(taken[name] for taken in tree.taken[1:]) for tree in trees]
        ratio = f"   ratio {medians[0] / medians[1]:.2f}" if len(medians) > 1 else ""
        say(f"{name:12}" + "".join(f"{median:10.1f}" for median in medians) + ratio)


if __name__ == "__main__":
    main()

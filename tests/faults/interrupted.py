"""A web process that is told to stop in the middle of a request: its SIGTERM handler raises SystemExit.

For each line on its standard input it handles one request, a transaction of two saves, and answers with a line: how the
request ended, and the seconds that it took. It outlives what it is told, so that whatever an interrupt leaves behind
meets the next request.

    python -m tests.faults.interrupted ALIAS durable|control FILE

durable: a receiver of signalq's. control: a hand-written on_commit hook, which appends the row's number to FILE.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from types import FrameType

ARMED = False


def told_to_stop(number: int, frame: FrameType | None) -> None:
    """What it is told outside of a request is forgotten: nothing of interest could be hit."""
    global ARMED
    if ARMED:
        ARMED = False
        raise SystemExit(128 + number)


def request(alias: str, control: Path | None) -> None:
    from django.db import transaction

    from tests.testapp.models import Author

    with transaction.atomic(alias):
        for name in ("one", "two"):
            author = Author.objects.using(alias).create(name=name)
            if control:
                transaction.on_commit(lambda pk=author.pk: send(control, pk), using=alias)  # type: ignore[misc]


def send(control: Path, pk: int) -> None:
    with control.open("a") as file:
        file.write(f"{pk}\n")


def end_of_request(alias: str) -> None:
    """What Django does; where a request stopped in the middle of an atomic block the process would have ended."""
    from django.db import connections

    if connections[alias].in_atomic_block:
        connections[alias].close()
        del connections[alias]
    connections[alias].close_if_unusable_or_obsolete()


def handled(alias: str, control: Path | None) -> str:
    global ARMED
    started = time.perf_counter()
    try:
        ARMED = True
        request(alias, control)
        ARMED = False
        ended = "whole"
    except SystemExit:
        ended = "interrupted"
    except Exception as error:  # noqa: BLE001 - what the driver makes of the interrupt
        ended = type(error).__name__
    ARMED = False
    seconds = time.perf_counter() - started
    end_of_request(alias)
    return f"{ended} {seconds}"


def main(alias: str, kind: str, file: str) -> None:
    django.setup()
    from django.db.models.signals import post_save

    from signalq import async_receiver
    from tests.testapp.models import Author

    def noted(**kwargs: Any) -> None: ...

    if kind == "durable":
        async_receiver(post_save, sender=Author, name="noted")(noted)
    signal.signal(signal.SIGTERM, told_to_stop)
    print("ready", flush=True)  # noqa: T201
    for _ in sys.stdin:
        print(handled(alias, Path(file) if kind == "control" else None), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])

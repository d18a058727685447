"""``manage.py signalq relay``: one more sweeper, beside those in the workers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from signalq.relay import Relay

HELP = "queue what has come due; each worker runs one by default"
STOP_WITHIN = 1.5
"""Seconds that a relay which is told to stop has for the round that it is in; a frozen broker would take longer."""


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    parser.add_argument("--once", action="store_true", help="one look at each database, then end")
    parser.add_argument("--database", help="the alias of the outbox; without it: all that have one")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    """Sweep until told to stop."""
    relay = Relay([options["database"]] if options["database"] else None)
    if options["once"]:
        relay.round()
        return
    stop = threading.Event()
    with _told_to_stop(stop):
        if options["parent"] is None:  # a worker's own says nothing: the worker does
            command.stdout.write("The relay is ready.")
            command.stdout.flush()
        relay.run(stop, options["parent"])


@contextlib.contextmanager
def _told_to_stop(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at a signal, and end the process if that was not heard: whatever a relay does may be cut off."""
    timer = threading.Timer(STOP_WITHIN, os._exit, [0])
    timer.daemon = True

    def told(*arguments: Any) -> None:
        if timer.ident is None:
            timer.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    try:
        yield
    finally:
        timer.cancel()

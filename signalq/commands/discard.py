"""``manage.py signalq discard``: give deliveries up."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from signalq.outcomes import again_on_conflict
from signalq.queryset import DeliveryQuerySet
from signalq.state import State

from . import which
from .common import Progress, table

HELP = "give deliveries up: parked, waiting, queued or dead ones"


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("--yes", action="store_true", help="do it; without it, only say what would be discarded")
    parser.add_argument("--reason", default="by hand", help="kept on each of them")
    which.add_arguments(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    """Do it, or say what that would be. Raises CommandError for ids that are left alone."""
    wanted = which.wanted(options).discardable()
    missing = sorted(set(options["ids"]) - set(wanted.values_list("pk", flat=True))) if options["ids"] else []
    if options["yes"]:
        total = _discard(wanted, options["reason"], Progress(command, wanted.count()))
        command.stdout.write(f"{total} deliveries are discarded. replay queues them again, by id or with --discarded.")
    else:
        rows = [row for row in wanted.summary() if any(row[1:-1])]
        table(command, ("receiver", *State.values), [row[:-1] for row in rows])
        total = sum(sum(row[1:-1]) for row in rows)
        command.stdout.write(f"{total} deliveries on {wanted.db!r} would be discarded. --yes does it.")
    if missing:
        raise CommandError(f"Done, discarded or at work, or not there: {', '.join(map(str, missing))}.")


def _discard(wanted: DeliveryQuerySet, reason: str, progress: Progress) -> int:
    total = 0
    while count := again_on_conflict(lambda: wanted.discard(reason)):
        total += count
        progress.add(count)
    progress.end()
    return total

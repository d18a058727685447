"""``manage.py signalq replay``: queue dead or discarded deliveries again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from signalq import publish, wire
from signalq.queryset import DeliveryQuerySet
from signalq.receivers import registry
from signalq.state import State

from . import which
from .common import Progress

HELP = "queue dead deliveries again"
AT_ONCE = 1_000
"""Deliveries that one transaction queues again."""


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("--discarded", action="store_true", help="of --receiver the discarded ones, not the dead")
    parser.add_argument("--dry-run", action="store_true", help="only say how many that would be")
    which.add_arguments(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    """Do it. Raises CommandError for ids that were left alone."""
    wanted = which.wanted(options).filter(state__in=(State.DEAD, State.DISCARDED))
    if not options["ids"]:
        wanted = wanted.filter(state=State.DISCARDED if options["discarded"] else State.DEAD)
    total = wanted.count()
    if options["dry_run"]:
        command.stdout.write(f"{total} deliveries on {wanted.db!r} would be queued again.")
        replayed = set(wanted.values_list("pk", flat=True)) if options["ids"] else set()
    else:
        replayed = _replay(wanted, Progress(command, total))
        command.stdout.write(f"{len(replayed)} deliveries are queued again.")
    if missing := sorted(set(options["ids"]) - replayed):
        raise CommandError(f"Neither dead nor discarded, or not there: {', '.join(map(str, missing))}.")


def _replay(wanted: DeliveryQuerySet, progress: Progress) -> set[int]:
    """Queue them again, some at once; their ids."""
    replayed: set[int] = set()
    last, outbox = 0, wanted.order_by("pk")
    while ids := list(outbox.filter(pk__gt=last).values_list("pk", flat=True)[:AT_ONCE]):
        last = ids[-1]
        done = wanted.filter(pk__in=ids).replay()
        wakes: list[wire.Item] = [
            wire.Wake(wanted.db, receiver, pk, True) for receiver, pk in done if receiver in registry
        ]
        transaction.on_commit(lambda wakes=wakes: publish.send(wakes), using=wanted.db)  # type: ignore[misc]
        replayed.update(pk for _, pk in done)
        progress.add(len(done))
    progress.end()
    return replayed

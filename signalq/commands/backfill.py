"""``manage.py signalq backfill``: events for rows that exist already, to one receiver."""

from __future__ import annotations

import argparse
import difflib
import math
import time
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldError, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router
from django.db.models import Model

from signalq import sources
from signalq.backfill import Backfill, BackfillError, Progress
from signalq.receivers import AsyncReceiver, registry

from . import common
from .common import alias

HELP = "events for rows that exist already, to one receiver"


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("receiver", help="its name; it has to listen to post_save")
    parser.add_argument("--model", help="app.Model, where it listens to several")
    parser.add_argument(
        "--filter", action="append", default=[], type=_pair, metavar="FIELD=VALUE",
        help="only these rows, as QuerySet.filter() has it: status=paid, created_at__gte=2026-01-01, id__in=1,2,3",
    )  # fmt: skip
    parser.add_argument("--created", action="store_true", help="the events say created=True, not False")
    parser.add_argument("--ignore-when", action="store_true", help="also rows that the receiver's when= leaves out")
    parser.add_argument("--rate", type=_positive, default=1000.0, help="rows a second at the most; default: 1000")
    parser.add_argument("--batch", type=int, default=1000, help="rows in a transaction; default: 1000")
    parser.add_argument("--database", help="of the rows and their outbox; default: where the model is written")
    parser.add_argument("--yes", action="store_true", help="do it; without it, only say what would be done")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on where an earlier run with these options stopped")
    again.add_argument("--restart", action="store_true", help="begin anew, whatever an earlier run has done")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    """Do it, or say what that would be. Raises CommandError for what cannot be done."""
    if options["batch"] < 1:
        raise CommandError("--batch: a transaction has one row at the least.")
    backfill = _backfill(options)
    total = _count(backfill)
    place = backfill.place()
    what = f"{total:,} rows of {backfill.model._meta.label} on {backfill.using!r}"
    if not options["yes"]:
        begun = f" An earlier run stopped after {place.after!r}: --resume or --restart." if place else ""
        command.stdout.write(f"{what} would become events for {backfill.receiver.name}. --yes does it.{begun}")
        return
    if options["restart"]:
        backfill.restart()
    elif place and not options["resume"]:
        raise CommandError(
            f"An earlier run of this stopped after {place.after!r}: --resume goes on, --restart begins anew."
        )
    elif options["resume"] and not place:
        raise CommandError("There is nothing to resume: with these options none was begun, or it is finished.")
    _run(command, backfill, options, total)


def _run(command: BaseCommand, backfill: Backfill, options: dict[str, Any], total: int) -> None:
    rate = options["rate"]
    # A batch a second, rather than a flood now and then.
    size = options["batch"] if math.isinf(rate) else max(1, min(options["batch"], math.ceil(rate)))
    started, progress, bar = time.monotonic(), Progress(), common.Progress(command, total)
    try:
        for now in backfill.run(size):
            bar.add(now.rows - progress.rows)
            progress = now
            time.sleep(max(0.0, started + progress.rows / rate - time.monotonic()))
    except BackfillError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        raise CommandError(f"Stopped after {progress.rows:,} rows: --resume goes on.") from None
    finally:
        bar.end()
    command.stdout.write(
        f"{progress.events:,} events are recorded for {backfill.receiver.name}, of {progress.rows:,} rows."
    )


def _backfill(options: dict[str, Any]) -> Backfill:
    receiver = registry.get(options["receiver"])
    if receiver is None:
        near = difflib.get_close_matches(options["receiver"], registry, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "manage.py signalq receivers lists them."
        raise CommandError(f"There is no receiver {options['receiver']!r}. {hint}")
    model = _model(receiver, options["model"])
    using = alias(options) if options["database"] else router.db_for_write(model)
    filters = dict(options["filter"])
    try:
        return Backfill(receiver, model, using, filters, options["created"], options["ignore_when"])
    except BackfillError as error:
        raise CommandError(str(error)) from error


def _model(receiver: AsyncReceiver[..., Any], label: str | None) -> type[Model]:
    """The one sender whose rows are meant. Raises CommandError if it is not clear which."""
    known = _models(receiver)
    if label is None:
        if len(known) == 1:
            return known[0]
        names = ", ".join(model._meta.label for model in known) or "any model"
        raise CommandError(f"{receiver.name} listens to {names}: say which with --model app.Model.")
    try:
        model = apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise CommandError(f"--model {label}: {error}") from error
    if known and model not in known:
        names = ", ".join(each._meta.label for each in known)
        raise CommandError(f"{receiver.name} does not listen to {label}, only to {names}.")
    return model


def _models(receiver: AsyncReceiver[..., Any]) -> list[type[Model]]:
    """The models it listens to, none meaning any."""
    senders, family = receiver.options.senders, receiver.options.subclasses
    if senders == [None]:
        return []
    if family:
        return [model for sender in senders for model in sources.family(sender)]
    return [apps.get_model(sender) if isinstance(sender, str) else sender for sender in senders]


def _count(backfill: Backfill) -> int:
    try:
        return backfill.rows().count()
    except (FieldError, ValidationError, ValueError, TypeError) as error:
        # Of a ValidationError str() is a list.
        told = " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
        raise CommandError(f"--filter: {told}") from error


def _pair(text: str) -> tuple[str, Any]:
    """``field=value``, with the values that some lookups want."""
    field, equals, value = text.partition("=")
    if not (field and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no filter: write field=value.")
    lookup = field.rpartition("__")[2]
    if lookup == "isnull":
        if value.lower() not in ("true", "false"):
            raise argparse.ArgumentTypeError(f"{text!r}: isnull is true or false.")
        return field, value.lower() == "true"
    return field, value.split(",") if lookup in ("in", "range") else value


def _positive(text: str) -> float:
    rate = float(text)
    if not rate > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: rows a second, inf for no limit.")
    return rate

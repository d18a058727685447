"""``manage.py signalq receivers``: who listens to what, and where that is written."""

from __future__ import annotations

import difflib
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser

from signalq import sources
from signalq.flow import describe, lights
from signalq.receivers import AsyncReceiver, registry

from .common import table

HELP = "who listens to what"
COLUMNS = ("receiver", "signal", "sender", "queue", "handler", "options")

Receiver = AsyncReceiver[..., Any]


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("--sender", metavar="APP.MODEL", help="only those that its signals reach")
    parser.add_argument("--signal", help="only those of this signal: post_save, or shop.signals.order_paid")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    """Write them. Raises CommandError for a sender or a signal that nobody could mean."""
    receivers = registry.all()
    if options["signal"]:
        receivers = _of_signal(receivers, options["signal"])
    if options["sender"]:
        receivers = _of_sender(receivers, options["sender"])
    if not receivers:
        command.stdout.write(
            "No receiver listens to that." if registry else "This project has no receiver: see @async_receiver."
        )
        return
    queues = lights.queues_of(receivers)
    table(command, COLUMNS, [_row(receiver, queues[receiver.name]) for receiver in receivers])


def _row(receiver: Receiver, queue: str) -> tuple[str, ...]:
    special = [] if receiver.connected else ["DISCONNECTED"]
    return (
        receiver.name,
        ", ".join(name.rpartition(".")[2] for name in receiver.signals),
        ", ".join(describe.sender(sender) or "any" for sender in receiver.options.senders),
        queue or "-",
        describe.place(receiver) or "-",
        ", ".join(special + describe.options(receiver)),
    )


def _of_signal(receivers: list[Receiver], wanted: str) -> list[Receiver]:
    known = {name for receiver in receivers for full in receiver.signals for name in (full, full.rpartition(".")[2])}
    if wanted not in known:
        raise CommandError(f"No receiver listens to a signal {wanted!r}.{_hint(wanted, known)}")
    return [
        receiver
        for receiver in receivers
        if any(wanted in (name, name.rpartition(".")[2]) for name in receiver.signals)
    ]


def _of_sender(receivers: list[Receiver], wanted: str) -> list[Receiver]:
    """Those that name it, those that take any sender, and those that take a parent of it with its subclasses."""
    models = {model._meta.label.lower(): model for model in apps.get_models(include_auto_created=True)}
    model = models.get(wanted.lower())
    named = {describe.sender(sender) for receiver in receivers for sender in receiver.options.senders}
    if model is None and wanted not in named:
        labels = [each._meta.label for each in models.values()]
        raise CommandError(f"There is no model {wanted!r}, and no receiver has such a sender.{_hint(wanted, labels)}")
    return [receiver for receiver in receivers if _hears(receiver, wanted, model)]


def _hears(receiver: Receiver, wanted: str, model: Any) -> bool:
    senders = receiver.options.senders
    if any(sender is None or describe.sender(sender).lower() == wanted.lower() for sender in senders):
        return True
    return bool(receiver.options.subclasses and model and sources.is_of(model, senders))


def _hint(wanted: str, known: Any) -> str:
    near = difflib.get_close_matches(wanted, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""

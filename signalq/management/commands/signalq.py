"""``manage.py signalq``: relay, status, receivers, replay."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections, router, transaction

from signalq import publish, wire
from signalq.models import Delivery
from signalq.queryset import State
from signalq.receivers import registry
from signalq.relay import Relay


class Command(BaseCommand):
    """One subcommand for each thing that a person or a process manager asks of signalq."""

    help = "Async signal receivers: run a relay, see what is under way, replay dead letters."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        commands = parser.add_subparsers(dest="subcommand", required=True)
        relay = commands.add_parser("relay", help="queue what has come due; each worker runs one by default")
        relay.add_argument("--parent", type=int, help="end when this process is no longer the parent")
        relay.add_argument("--once", action="store_true", help="one look at each database, then end")
        commands.add_parser("status", help="how many deliveries are where, and since when")
        commands.add_parser("receivers", help="who listens to what")
        replay = commands.add_parser("replay", help="queue dead deliveries again")
        replay.add_argument("ids", nargs="*", type=int, help="deliveries; without any: all dead ones of --receiver")
        replay.add_argument("--receiver", help="the name of a receiver")
        for subparser in (relay, replay):
            subparser.add_argument("--database", help="the alias of the outbox; relay: all that have one")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand."""
        getattr(self, f"_{options['subcommand']}")(options)

    def _relay(self, options: dict[str, Any]) -> None:
        relay = Relay([options["database"]] if options["database"] else None)
        if options["once"]:
            relay.round()
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        relay.run(stop, options["parent"])

    def _status(self, options: dict[str, Any]) -> None:
        for using in _aliases():
            table = [(*counts, _moment(overdue)) for *counts, overdue in Delivery.objects.using(using).summary()]
            self.stdout.write(f"Outbox on {using!r}:")
            self._table(("receiver", *State.values, "overdue since"), table or [("(empty)",)])
            self._parked(using, [row[0] for row in table])

    def _parked(self, using: str, receivers: Iterable[str]) -> None:
        for name in receivers:
            rows = Delivery.objects.using(using).filter(receiver=name, due_at__isnull=False)
            if name not in registry and (count := rows.count()):
                self.stderr.write(
                    self.style.WARNING(
                        f"{count} deliveries are parked for {name}, a receiver unknown here. Was it renamed? "
                        f"Give it aliases=[{name!r}]. Is it newer than this code? Its own workers take them."
                    )
                )

    def _receivers(self, options: dict[str, Any]) -> None:
        rows = [
            (
                receiver.name,
                ", ".join(name.rpartition(".")[2] for name in receiver.signals),
                ", ".join(_sender(sender) for sender in receiver.options.senders),
                "durable" if receiver.options.durable else "transient",
                receiver.options.queue or "-",
                "yes" if receiver.connected else "no",
            )
            for receiver in registry.all()
        ]
        self._table(("receiver", "signal", "sender", "delivery", "queue", "connected"), rows)

    def _replay(self, options: dict[str, Any]) -> None:
        if not options["ids"] and not options["receiver"]:
            raise CommandError("Say which: ids, or --receiver NAME for all its dead deliveries.")
        if options["database"] and options["database"] not in connections:
            raise CommandError(f"DATABASES has no {options['database']!r}; it has {', '.join(connections)}.")
        using = options["database"] or "default"
        wanted = Delivery.objects.using(using).filter(state=State.DEAD)
        if options["ids"]:
            wanted = wanted.filter(pk__in=options["ids"])
        if options["receiver"]:
            wanted = wanted.filter(receiver=options["receiver"])
        replayed = wanted.replay()
        wakes: list[wire.Item] = [wire.Wake(using, receiver, pk, True) for receiver, pk in replayed]
        transaction.on_commit(lambda: publish.send(wakes), using=using)
        self.stdout.write(f"{len(replayed)} deliveries are queued again.")
        if missing := sorted(set(options["ids"]) - {pk for _, pk in replayed}):
            raise CommandError(f"Not dead, or not there: {', '.join(map(str, missing))}.")

    def _table(self, head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        cells = [head, *(tuple(str(cell) for cell in row) for row in rows)]
        widths = [max(len(row[column]) for row in cells if column < len(row)) for column in range(len(head))]
        for row in cells:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def _aliases() -> list[str]:
    return [
        using
        for using in connections
        if router.allow_migrate_model(using, Delivery)
        and Delivery._meta.db_table in connections[using].introspection.table_names()
    ]


def _moment(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}" if value else "-"


def _sender(sender: Any) -> str:
    if sender is None:
        return "any"
    meta = getattr(sender, "_meta", None)
    return meta.label if meta else str(getattr(sender, "__qualname__", sender))

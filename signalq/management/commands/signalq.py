"""``manage.py signalq``: one subcommand for each thing that a person or a process manager asks of signalq."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from signalq.commands import SUBCOMMANDS


class Command(BaseCommand):
    """Its subcommands are the modules of signalq.commands."""

    help = "Async signal receivers: see what is under way, run a relay, replay or discard deliveries."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        parsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        for name in SUBCOMMANDS:
            module = import_module(f"signalq.commands.{name}")
            subparser = parsers.add_parser(name, help=module.HELP, description=module.__doc__)
            subparser.set_defaults(run=module.handle)
            module.add_arguments(subparser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand."""
        options["run"](self, options)

"""``manage.py signalq status --probe``: does everything answer that a delivery needs?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError, connections

from signalq.flow import looks
from signalq.flow.words import span
from signalq.probe import Finding, probe

from .common import age


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("--probe", action="store_true", help="ask database, broker, a worker and a relay for an answer")
    parser.add_argument("--queue", help="--probe: ask a worker of this queue; without it, of the default queue")
    parser.add_argument("--timeout", type=age, default=5.0, metavar="AGE", help="--probe: wait so long; default: 5s")


def handle(command: BaseCommand, options: dict[str, Any], aliases: list[str] | None) -> None:
    """Ask, and write what answered. Raises CommandError for what did not."""
    wanted = aliases if aliases is not None else [using for using in connections if _is_meant(using)] or ["default"]
    found = {using: probe(using, options["timeout"], options["queue"]) for using in wanted}
    if options["json"]:
        command.stdout.write(json.dumps({using: [asdict(one) for one in found[using]] for using in found}, indent=2))
    else:
        for using, findings in found.items():
            command.stdout.write(f"{using}: {_line(findings)}" if len(found) > 1 else _line(findings))
    if troubles := [f"{one.part}: {one.trouble}" for findings in found.values() for one in findings if one.trouble]:
        raise CommandError("\n".join(dict.fromkeys(troubles)))


def _line(findings: list[Finding]) -> str:
    parts = [
        f"{one.part} {'FAILED' if one.trouble else 'ok'}" for one in findings if one.part != "database" or one.trouble
    ]
    trip = [f"round trip {span(one.seconds)}" for one in findings if one.part == "worker" and one.seconds is not None]
    return ", ".join(parts + trip)


def _is_meant(using: str) -> bool:
    try:
        return looks.has_outbox(using)
    except (DatabaseError, InterfaceError):
        return True  # the probe says what is wrong with it

"""``manage.py signalq status``: what is under way, and whether somebody has to look at it.

Exit status 1 when deliveries are parked for a receiver unknown here, when a database does not answer, when something is
overdue for longer than ``--max-lag``, or when ``--probe`` found something that does not answer.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import override

from signalq.flow.overview import Flow, ReceiverFlow, flow
from signalq.flow.words import number, span

from . import probing
from .common import age, alias, table

HELP = "what is under way, and what needs somebody"
COLUMNS = ("receiver", "queue", "waiting", "queued", "running", "retrying", "dead", "done 24 h", "overdue", "last done",
           "p50", "p99")  # fmt: skip
SAME = ("name", "signals", "senders", "queue", "waiting", "queued", "running", "retrying", "later", "dead",
        "outstanding", "oldest_due", "p50", "p99", "hours", "done_lately", "parked",
        "needs_you", "trouble")  # fmt: skip
"""What json has of a receiver as it is."""


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("--json", action="store_true", help="for programs; docs/commands.md names the keys")
    parser.add_argument("--max-lag", type=age, metavar="AGE", help="exit status 1 if anything is overdue longer: 5m")
    parser.add_argument("--database", help="the alias of the outbox; without it: all that have one")
    probing.add_arguments(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    """Write it. Raises CommandError when somebody has to look at it."""
    # What programs read is in one language, whatever the site's is.
    with override("en") if options["json"] else nullcontext():
        _handle(command, options, [alias(options)] if options["database"] else None)


def _handle(command: BaseCommand, options: dict[str, Any], aliases: list[str] | None) -> None:
    if options["probe"]:
        probing.handle(command, options, aliases)
        return
    now = flow(aliases)
    if options["json"]:
        command.stdout.write(json.dumps(_plain(now), indent=2))
    else:
        _write(command, now)
    if reasons := [*_parked(command, now), *_reasons(now, options["max_lag"])]:
        raise CommandError(" ".join(reasons))


def _write(command: BaseCommand, now: Flow) -> None:
    command.stdout.write(f"{now.sentence}\n\n")
    for light in now.lights:
        command.stdout.write(f"{light.name:<9}  {light.state:<7}  {light.cause}")
        if light.remedy:
            command.stdout.write(f"{'':<20}{light.remedy}")
    command.stdout.write("")
    table(command, COLUMNS, [_row(receiver) for receiver in now.receivers] or [("(no receiver)",)])


def _row(receiver: ReceiverFlow) -> tuple[str, ...]:
    return (
        receiver.name,
        receiver.queue or "-",
        *(receiver.shown(name) for name in ("waiting", "queued", "running", "retrying", "dead")),
        number(sum(receiver.hours)),
        *(span(seconds) if seconds is not None else "-" for seconds in (receiver.oldest_due,)),
        f"{receiver.last_done:%Y-%m-%d %H:%M:%S}" if receiver.last_done else "-",
        *(span(seconds) if seconds is not None else "-" for seconds in (receiver.p50, receiver.p99)),
    )


def _parked(command: BaseCommand, now: Flow) -> list[str]:
    """Say what waits for receivers unknown here, and the ways out."""
    parked = [receiver for receiver in now.receivers if receiver.parked]
    for receiver in parked:
        name, options = (
            receiver.name,
            ["" if using == "default" else f" --database {using}" for using in receiver.aliases],
        )
        discard = " and ".join(f"manage.py signalq discard --receiver {name}{option}" for option in options)
        command.stderr.write(
            command.style.WARNING(
                f"{receiver.shown('outstanding')} deliveries are parked for a receiver unknown here: {name}. Was it "
                f"renamed? Add aliases=[{name!r}] to its successor. Was it removed? {discard}. Is it newer than this "
                "code? Its own workers take them."
            )
        )
    return [f"{number(sum(receiver.outstanding for receiver in parked))} deliveries are parked."] if parked else []


def _reasons(now: Flow, max_lag: float | None) -> list[str]:
    reasons = [f"Database {using!r} does not answer: {error}." for using, error in now.away.items()]
    if max_lag is not None and now.oldest is not None and now.oldest > max_lag:
        late = max(now.receivers, key=lambda receiver: receiver.oldest_due or 0)
        reasons.append(
            f"{late.name} is overdue for {span(now.oldest)}, which is more than {span(max_lag)}: {now.sentence}"
        )
    return reasons


def _plain(now: Flow) -> dict[str, Any]:
    """For json; what is a lower bound is named in "capped"."""
    return {
        "sentence": now.sentence,
        "well": now.is_well,
        "outstanding": now.outstanding,
        "backlog": now.backlog,
        "capped": now.capped,
        "oldest": now.oldest,
        "rate": now.rate,
        "seconds_left": now.seconds_left,
        "databases": list(now.aliases),
        "away": now.away,
        "lights": [light._asdict() for light in now.lights],
        "queues": [asdict(queue) for queue in now.queues],
        "receivers": [_plain_receiver(receiver) for receiver in now.receivers],
    }


def _plain_receiver(receiver: ReceiverFlow) -> dict[str, Any]:
    return {
        **{name: getattr(receiver, name) for name in SAME},
        "known": receiver.receiver is not None,
        "capped": sorted(receiver.capped),
        "last_done": receiver.last_done.isoformat() if receiver.last_done else None,
        "databases": list(receiver.aliases),
    }

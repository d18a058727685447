"""The demo's table, its mails and its list of expectations, as text."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from django_celery_results.models import TaskResult

from project.activity.receivers import count_request
from project.page.feed import in_words
from signalq.models import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from project.demo.checks import Expectation
    from project.demo.scenario import Scenario
    from project.mail import Mail

HEADINGS = ("receiver", "deliveries", "done", "retried", "dead", "p50", "p99")


NOTE = (
    "From commit to done, in a rush on a busy machine. What waited longest was in the hands of the killed worker, or\n"
    "failed first. dead: had failed for good before it was replayed."
)


def table(scenario: Scenario) -> str:
    by_receiver: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in scenario.deliveries():
        by_receiver[delivery.receiver].append(delivery)
    rows = [_row(name, deliveries, set(scenario.dead)) for name, deliveries in sorted(by_receiver.items())]
    results = TaskResult.objects.filter(pk__gt=scenario.first_result)
    succeeded = results.filter(status="SUCCESS").count()
    rows.append((f"{_short(count_request.name)} (transient)", str(results.count()), str(succeeded), "", "", "", ""))
    return f"{_aligned([HEADINGS, *rows])}\n\n{NOTE}"


def _row(name: str, deliveries: Sequence[Delivery], were_dead: set[int]) -> tuple[str, ...]:
    took = sorted(each.finished_at - each.created_at for each in deliveries if each.finished_at)
    return (
        _short(name),
        str(len(deliveries)),
        str(sum(each.state == Delivery.State.DONE for each in deliveries)),
        str(sum(each.attempt > 1 for each in deliveries)),
        str(sum(each.state == Delivery.State.DEAD or each.pk in were_dead for each in deliveries)),
        _percentile(took, 50),
        _percentile(took, 99),
    )


def _percentile(ordered: Sequence[timedelta], percent: int) -> str:
    if not ordered:
        return "-"
    return in_words(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)])


def _short(name: str) -> str:
    return name.removeprefix("project.").replace(".receivers.", ".")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        numbers = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def mails(received: Sequence[Mail] | None, number: int = 3) -> str:
    if received is None:
        return "The mails went to the server that EMAIL_URL names."
    lines = [f"  {each.subject:<28} to {each.to}" for each in received[:number]]
    if len(received) > number:
        lines.append(f"  and {len(received) - number} more")
    return "\n".join([f"{len(received)} mails received:", *lines])


def expectations(found: Iterable[Expectation]) -> str:
    lines = []
    for each in found:
        verdict = "ok    " if each.holds else "FAILED"
        detail = _short_value(each.found) if each.holds else f"expected {each.expected}, found {each.found}"
        lines.append(f"  {verdict}  {each.text}{f': {detail}' if detail else ''}")
    return "\n".join(lines)


def _short_value(value: object) -> str:
    """Numbers say something; True goes without saying, and a dictionary is too much."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""

"""What so many events a second need: arithmetic with the run's own figures, one durable receiver an event.

python -m benchmarks.scale.sizing var/scale.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import short
from benchmarks.scale.table import Row

RATES = [10, 100, 1_000, 10_000, 100_000]
RETRIED = 0.05
"""Deliveries that need the relay."""
SHARD = 8
"""Cores of one database server that signalq may have."""
DAY = 86_400
DEAD_ROWS = 3
"""Of a delivery: by its claim, by the mark "done", and by pruning."""
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Measured:
    """The medians that the arithmetic starts from: microseconds, bytes, rows a second."""

    saving: float
    recording: float
    running: float
    running_alone: float
    pruning: float
    children: float
    children_alone: float
    parent_alone: float
    redis_alone: float
    wal: float
    row: float
    relay: float
    vacuum: float


def measured(tables: dict[str, list[Row]]) -> Measured:
    def of(family: str, number: int, column: str) -> float:
        values = tables[family][number][column]
        assert isinstance(values, list)  # noqa: S101
        return statistics.median(values)

    wal = sum(of("costs", number, "WAL, bytes") for number in (0, 2, 5))
    return Measured(
        saving=of("costs", 0, "saving process, µs"),
        recording=of("costs", 0, "database, µs"),
        running=of("costs", 2, "database, µs"),
        running_alone=of("costs", 3, "database, µs"),
        pruning=of("costs", 5, "database, µs"),
        children=of("costs", 2, "children, µs"),
        children_alone=of("costs", 3, "children, µs"),
        parent_alone=of("costs", 3, "worker's parent, µs"),
        redis_alone=of("costs", 0, "Redis, µs") + of("costs", 3, "Redis, µs"),
        wal=wal,
        row=of("throttle", 0, "a row before, bytes"),
        relay=of("relays", 0, "rows a second"),
        vacuum=of("throttle", 0, "dead rows a second"),
    )


def lines(one: Measured) -> list[tuple[str, str, Callable[[float], float]]]:
    """What, by which formula, and the formula; r is the events a second."""
    database, alone = (one.recording + run + one.pruning for run in (one.running, one.running_alone))
    return [
        ("web: cores for signalq", f"r × {one.saving:.0f} µs", lambda r: r * one.saving / 1e6),
        ("children: cores, shared messages", f"r × {one.children:.0f} µs", lambda r: r * one.children / 1e6),
        ("children: cores, alone", f"r × {one.children_alone:.0f} µs", lambda r: r * one.children_alone / 1e6),
        (
            "workers at the least, alone",
            f"r × {one.parent_alone:.0f} µs of a parent",
            lambda r: r * one.parent_alone / 1e6,
        ),
        ("database: cores, shared", f"r × {database:.0f} µs", lambda r: r * database / 1e6),
        ("database: cores, alone", f"r × {alone:.0f} µs", lambda r: r * alone / 1e6),
        ("Redis: cores, alone", f"r × {one.redis_alone:.0f} µs", lambda r: r * one.redis_alone / 1e6),
        ("relays", f"r × {RETRIED} ÷ {one.relay:,.0f}", lambda r: r * RETRIED / one.relay),
        ("vacuums at once", f"r × {DEAD_ROWS} ÷ {one.vacuum:,.0f}", lambda r: DEAD_ROWS * r / one.vacuum),
        ("log of the database, MiB/s", f"r × {one.wal:,.0f} bytes", lambda r: r * one.wal / MIB),
        ("rows a day, million", f"r × {DAY:,}", lambda r: r * DAY / 1e6),
        ("disk for a day, GiB", f"rows × {one.row:.0f} bytes × 1.2", lambda r: r * DAY * one.row * 1.2 / GIB),
        ("shards", f"database, alone ÷ {SHARD} cores", lambda r: max(1, -(-r * alone / 1e6 // SHARD))),
    ]


def markdown(tables: dict[str, list[Row]]) -> str:
    """The table, or nothing if a family that it needs was not measured."""
    if not {"costs", "relays", "throttle"} <= set(tables):
        return ""
    head = f"| r, events a second | by | {' | '.join(f'{rate:,}' for rate in RATES)} |"
    body = [
        f"| {what} | {formula} | {' | '.join(_cell(result(rate)) for rate in RATES)} |"
        for what, formula, result in lines(measured(tables))
    ]
    return "\n".join(["### sizing", "", head, "|---" * (len(RATES) + 2) + "|", *body]) + "\n"


def _cell(number: float) -> str:
    if number < 0.001:
        return "< 0.001"
    return f"{number:,.0f}" if number == int(number) else short(number)


if __name__ == "__main__":
    sys.stdout.write(markdown(json.loads(Path(sys.argv[1]).read_text())["tables"]))

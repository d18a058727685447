"""The outbox's upkeep on PostgreSQL: vacuum, fillfactor, partitions."""

from __future__ import annotations

from typing import Any

from benchmarks.families.worker import rate
from benchmarks.lab import Lab
from benchmarks.processes import say
from benchmarks.scale.table import Row
from benchmarks.variants import VARIANTS

AT_REST, FLOWING = 100_000, 30_000
ROWS = 400_000
PARTS = 8


def vacuum(lab: Lab) -> list[Row]:
    """Deliveries flow through an outbox of `AT_REST` others: what vacuum, fillfactor and an old snapshot change."""
    rows: list[Row] = []
    size = {"at_rest": AT_REST // lab.notebook.rounds(50, 1), "flowing": FLOWING // lab.notebook.rounds(15, 1)}
    cases: dict[str, dict[str, Any]] = {
        "never": {},
        "at 20 % dead, the default": {"vacuum_at": 0.2},
        "at 1 % dead": {"vacuum_at": 0.01},
        "at 20 % dead, fillfactor 50": {"vacuum_at": 0.2, "fillfactor": 50},
        "at 1 % dead, a transaction left open": {"vacuum_at": 0.01, "left_open": True},
    }
    for name, arguments in cases.items():
        lab.empty("durable")
        found = lab.inside("durable").ask("churn", **size, **arguments)
        rows.append({"vacuum": name, **{title: [value] for title, value in found.items()}})
        say(f"  {rows[-1]}")
    return rows


def throttle(lab: Lab) -> list[Row]:
    """One vacuum after a fifth of a large outbox has been written anew: how many dead rows a second it removes."""
    rows: list[Row] = []
    size = ROWS // lab.notebook.rounds(100, 1)
    for delay, name in ((2, "2 ms, autovacuum's default"), (1, "1 ms"), (0, "0")):
        lab.empty("durable")
        found = lab.inside("durable").ask("vacuum_seconds", rows=size, dead=size // 5, cost_delay=delay)
        rows.append(
            {
                "vacuum_cost_delay": name,
                "seconds": [found["seconds"]],
                "its CPU, s": [found["cpu"]],
                "a row before, bytes": [found["size"]],
                "dead rows a second": [size / 5 / found["seconds"]],
            }
        )
        say(f"  {rows[-1]}")
    return rows


def partitions(lab: Lab) -> list[Row]:
    """The outbox as one table and in `PARTS` parts."""
    rows: list[Row] = []
    size = ROWS // lab.notebook.rounds(100, 1)
    for name, by in {
        "one table": "",
        f"{PARTS} ranges of id": "range",
        f"{PARTS} parts by hash of id": "hash",
        f"{PARTS} ranges of created_at": "time",
    }.items():
        inside = lab.inside("durable")
        lab.empty("durable")
        if by:
            inside.ask("partition", by=by, number=PARTS, rows=size)
        try:
            rows.append({"the outbox": name, **_with_partitions(lab, size, PARTS if by in ("range", "time") else 0)})
        finally:
            if by:
                inside.ask("unpartition")
        say(f"  {rows[-1]}")
    return rows


def _with_partitions(lab: Lab, size: int, parts: int) -> Row:
    inside, observer = lab.inside("durable"), lab.observer("durable")
    row: Row = dict(inside.ask("times", rows=size, rounds=lab.notebook.rounds(3, 7)))
    count = lab.notebook.rounds(500, 5_000)
    inside.ask("backlog", count=count)
    with lab.working(VARIANTS["durable"], "insert") as processes:
        done = rate(lambda: int(observer.ask("done", work="insert")["done"]), count, processes)
    row["deliveries a second, 2 children"] = [done]
    row["half of the rows gone, s"] = [inside.ask("rid", parts=parts)["seconds"]]
    return row

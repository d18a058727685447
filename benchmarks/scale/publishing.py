"""What the publisher's constants do, in a process that saves."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from benchmarks.lab import Lab
from benchmarks.processes import say
from benchmarks.scale.table import Row
from benchmarks.variants import VARIANTS

RATES = [1, 10, 100, 300, 1_000, 100_000]
BOUNDS = [100, 1_000, 10_000]
BURST = 6_000
"""Saves, a transaction each, as fast as one process makes them."""


def grouping(lab: Lab) -> list[Row]:
    """Deliveries that share a message, over saves a second of one process (one save a transaction)."""
    rows: list[Row] = []
    inside, client = lab.inside("durable"), lab.broker.client()
    for rate in RATES[2:4] if lab.notebook.quick else RATES:
        count = max(5, min(3 * rate, BURST) // lab.notebook.rounds(10, 1))
        lab.empty("durable")
        answer = inside.ask("save_paced", rate=rate, count=count)
        inside.ask("flush")
        saved = len(answer["moments"])
        row: Row = {
            "asked for": f"{rate:,}" if rate < 100_000 else "no limit",
            "saves a second": [answer["rate"]],
            "deliveries a message": [saved / client.llen("celery")],
        }
        rows.append(row)
        say(f"  {row}")
    return rows


def queue(lab: Lab) -> list[Row]:
    """A burst over the bound of the publisher's queue (`QUEUE_SIZE`), with Redis well and with Redis frozen."""
    rows: list[Row] = []
    count = BURST // lab.notebook.rounds(10, 1)
    for name in ("durable", "transient"):
        for is_frozen in (False, True):
            for size in BOUNDS[1:2] if lab.notebook.quick else BOUNDS:
                inside = lab.start(VARIANTS[name])
                lab.empty(name)
                with _frozen(lab.broker.redis.pid) if is_frozen else contextlib.nullcontext():
                    answer = inside.ask("burst", count=count, bound=size)
                inside.end()
                what = f"{name}, Redis {'frozen' if is_frozen else 'well'}"
                rows.append({"": what, "QUEUE_SIZE": str(size), **{k: [v] for k, v in answer.items()}})
                say(f"  {rows[-1]}")
    return rows


@contextlib.contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)

"""Latency: from the last line before the commit to the first line of the handler, idle and at a steady rate."""

from __future__ import annotations

import statistics

from benchmarks.lab import Lab
from benchmarks.processes import VariantError, wait_until

NAMES = ["h", "durable", "transient"]
IDLE = 20.0
"""Transactions a second that leave a worker idle between them."""


def measure(lab: Lab, *, peers: bool) -> None:
    quick = lab.notebook.quick
    rates = {"idle": (IDLE, 60 if quick else 120)}
    if peers:
        rates["200"] = (200.0, 400 if quick else 1_000)
        rates["500"] = (500.0, 800 if quick else 1_500)
    lab.rounds(lab.notebook.rounds(1, 3), NAMES, lambda name: _round(lab, name, rates))
    lab.end_insides()


def _round(lab: Lab, name: str, rates: dict[str, tuple[float, int]]) -> None:
    inside, observer = lab.inside(name), lab.observer(name)
    lab.empty(name)
    with lab.worker(name):
        # Both children at work, connections made, caches filled.
        inside.ask("save_paced", rate=50, count=50)
        wait_until(lambda: observer.ask("done", work="insert")["done"] >= 50, f"the worker of {name}", 40)
        for metric, (rate, count) in rates.items():
            observer.ask("empty")
            answer = inside.ask("save_paced", rate=rate, count=count)
            count = len(answer["moments"])
            wait_until(lambda count=count: observer.ask("done", work="insert")["done"] >= count, f"{count} handled", 60)
            began = observer.ask("first_effects")
            waits = sorted(1000 * (began[pk] - moment) for pk, moment in answer["moments"].items() if pk in began)
            if len(waits) < count:
                raise VariantError(f"{count - len(waits)} of {count} were not handled")
            lab.note("latency", f"{metric} p50", name, statistics.median(waits))
            lab.note("latency", f"{metric} p99", name, waits[int(len(waits) * 0.99)])
            lab.note("latency", f"{metric} reached", name, answer["rate"])

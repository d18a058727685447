"""More of the same beside each other: saving processes, children of a worker, relays."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from benchmarks.families.worker import rate
from benchmarks.lab import Lab
from benchmarks.processes import Inside, say
from benchmarks.scale.table import Row, by_turns
from benchmarks.variants import VARIANTS, Variant

BESIDE = [1, 2, 4, 8]
NO_RELAY: dict[str, object] = {"SIGNALQ": {"RELAY": False}}
"""Its start would be a large part of so short a run."""


def beside(lab: Lab, most: int = 8) -> list[int]:
    return [number for number in BESIDE if number <= (2 if lab.notebook.quick else most)]


def at_once(insides: list[Inside], **request: Any) -> float:
    """Ask all of them; seconds until the last has answered."""
    started = time.monotonic()
    with ThreadPoolExecutor(len(insides)) as pool:
        list(pool.map(lambda inside: inside.ask(**request), insides))
    return time.monotonic() - started


def writers(lab: Lab) -> list[Row]:
    """Saves a second of so many processes together, without a receiver and with a durable one, until all is sent."""
    rows: list[Row] = []
    shapes = {"save_each": (1_200, "a transaction each"), "save_many": (6_000, "one transaction")}
    for number in beside(lab):
        row: Row = {"writers": str(number)}
        insides = {name: [lab.start(VARIANTS[name]) for _ in range(number)] for name in ("plain", "durable")}
        for do, (total, how) in shapes.items():
            count = total // number // lab.notebook.rounds(10, 1)
            for _ in range(lab.notebook.rounds(1, 3)):
                for name, title in (("plain", "no receiver"), ("durable", "durable")):
                    lab.empty("plain")
                    seconds = at_once(insides[name], do=do, count=count)
                    row.setdefault(f"{how}, {title}", []).append(number * count / seconds)  # type: ignore[union-attr]
        for inside in [*insides["plain"], *insides["durable"]]:
            inside.end()
        say(f"  {row}")
        rows.append(row)
    return rows


def workers(lab: Lab) -> list[Row]:
    """Deliveries a second out of a backlog, by one worker with so many children."""

    def measure(number: float) -> dict[str, float]:
        options = tuple(part.replace("=2", f"={number:.0f}") for part in VARIANTS["durable"].worker)
        variant = replace(VARIANTS["durable"], worker=options, settings=NO_RELAY)
        return {"deliveries a second": worked(lab, variant, lab.notebook.rounds(500, 4_000))}

    return by_turns("children", beside(lab), lab.notebook.rounds(1, 3), measure)


def worked(lab: Lab, variant: Variant, count: int) -> float:
    """Deliveries a second of a worker that finds `count` in the broker; each loads its object and inserts a row."""
    lab.empty("durable")
    saver = lab.start(variant)  # the messages are made by its settings, too
    try:
        saver.ask("backlog", count=count)
    finally:
        saver.end()
    observer = lab.observer("durable")
    observer.ask("vacuum")
    with lab.working(variant, "insert") as processes:
        return rate(lambda: int(observer.ask("done", work="insert")["done"]), count, processes)


def relays(lab: Lab) -> list[Row]:
    """Rows a second that so many relays queue and publish."""
    rows: list[Row] = []
    count = lab.notebook.rounds(2_000, 40_000)
    for number in beside(lab, 4):
        insides = [lab.start(VARIANTS["durable"]) for _ in range(number)]
        found = [_swept(lab, insides, count) for _ in range(lab.notebook.rounds(1, 5))]
        for inside in insides:
            inside.end()
        rows.append({"relays": str(number), "rows a second": found})
        say(f"  {rows[-1]}")
    return rows


def _swept(lab: Lab, insides: list[Inside], count: int) -> float:
    lab.empty("durable")
    insides[0].ask("relay_fill", count=count)
    return count / at_once(insides, do="relay_sweep")

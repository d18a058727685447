"""What one delivery costs each part: the processor of the database, of our processes and of the broker, and the log.

What a machine with more cores can do follows from these, and not from rates measured where all share two.
"""

from __future__ import annotations

import time
from dataclasses import replace

import psutil

from benchmarks.lab import Lab
from benchmarks.processes import Inside, Process, VariantError, say
from benchmarks.scale.growth import NO_RELAY
from benchmarks.scale.table import Row
from benchmarks.variants import REUSE, VARIANTS, Variant

Spent = dict[str, float]
CPU, BYTES = 1e6, 1.0
UNITS = {
    "database, µs": CPU,
    "saving process, µs": CPU,
    "children, µs": CPU,
    "worker's parent, µs": CPU,
    "relay, µs": CPU,
    "Redis, µs": CPU,
    "WAL, bytes": BYTES,
}


def costs(lab: Lab) -> list[Row]:
    """Microseconds of CPU, and bytes, for each delivery."""
    rows: list[Row] = []
    own = replace(VARIANTS["durable"], settings=NO_RELAY)
    one = {**REUSE, "SIGNALQ": {"CHUNK": 1, "RELAY": False}}
    for title, measure in {
        "recorded, one save a transaction": lambda: _recorded(lab, "save_each", lab.notebook.rounds(200, 2_000)),
        "recorded, 1,000 saves a transaction": lambda: _recorded(lab, "save_many", 1_000),
        "run: claim, handler, done": lambda: run(lab, own, lab.notebook.rounds(500, 6_000)),
        "run, each in a message of its own": lambda: run(
            lab, replace(VARIANTS["durable"], settings=one), lab.notebook.rounds(200, 1_500)
        ),
        "queued and published by the relay": lambda: _inside(lab, "relay_sweep", lab.notebook.rounds(2_000, 30_000)),
        "pruned": lambda: _inside(lab, "prune_all", lab.notebook.rounds(2_000, 30_000)),
    }.items():
        row: Row = {"what": title}
        for _ in range(lab.notebook.rounds(1, 3)):
            found = measure()
            for name, value in ((name, found[name]) for name in UNITS if name in found):
                row.setdefault(name, []).append(UNITS[name] * value)  # type: ignore[union-attr]
        rows.append(row)
        say(f"  {row}")
    return rows


def _spent(lab: Lab) -> Spent:
    server, redis = lab.observer("durable").ask("spent"), lab.broker.client().info("cpu")
    return {
        "database, µs": server["database"],
        "WAL, bytes": server["wal"],
        "Redis, µs": redis["used_cpu_user"] + redis["used_cpu_sys"],
    }


def _each(before: Spent, after: Spent, count: float) -> Spent:
    return {name: (after[name] - before[name]) / count for name in before}


def _recorded(lab: Lab, do: str, count: int) -> Spent:
    """What a durable receiver adds to the saves."""
    found = {}
    for name in ("plain", "durable"):
        lab.empty("durable")
        inside = lab.inside(name)
        inside.ask(do, count=50)  # warms up
        before = _spent(lab)
        cpu = inside.ask(do, count=count)["cpu"]
        found[name] = {**_each(before, _spent(lab), count), "saving process, µs": cpu}
    return {name: found["durable"][name] - found["plain"][name] for name in found["plain"]}


def run(lab: Lab, variant: Variant, count: int) -> Spent:
    """Between a tenth and nine tenths of a backlog, so that no start and no end is in it; and "seconds" of time."""
    lab.empty("durable")
    saver = lab.start(variant)
    saver.ask("backlog", count=count)
    saver.end()
    observer = lab.observer("durable")
    observer.ask("vacuum")
    with lab.working(variant, "insert") as (worker,):
        first = _wait(observer, count * 0.1, worker)
        before, started = {**_spent(lab), **_of_worker(worker)}, time.monotonic()
        last = _wait(observer, count * 0.9, worker)
        after = {**_spent(lab), **_of_worker(worker)}
        seconds = time.monotonic() - started
    return {**_each(before, after, last - first), "seconds": seconds / (last - first)}


def _wait(observer: Inside, number: float, worker: Process) -> int:
    until = time.monotonic() + 60
    while (done := int(observer.ask("done", work="insert")["done"])) < number:
        if time.monotonic() > until:
            raise VariantError(f"{done} handled, and no more in a minute:\n{worker.tail()}")
        time.sleep(0.02)
    return done


def _of_worker(worker: Process) -> Spent:
    parent = psutil.Process(worker.popen.pid)
    return {"worker's parent, µs": _seconds(parent), "children, µs": sum(map(_seconds, parent.children()))}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _inside(lab: Lab, do: str, count: int) -> Spent:
    """Of one command to a process that holds the outbox's rows."""
    lab.empty("durable")
    inside = lab.inside("durable")
    inside.ask("relay_fill", count=count)
    process = psutil.Process(inside.popen.pid)
    before = {**_spent(lab), "relay, µs": _seconds(process)}
    inside.ask(do)
    return _each(before, {**_spent(lab), "relay, µs": _seconds(process)}, count)

"""What the worker's and the relay's constants do: figures over a range of values, the one in use among them."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.lab import Lab
from benchmarks.processes import wait_until
from benchmarks.scale.spent import CPU, run
from benchmarks.scale.table import Row, by_turns
from benchmarks.variants import VARIANTS, Variant

CHUNKS = {1: 800, 10: 2_000, 30: 3_000, 100: 4_000, 300: 4_000}
"""Deliveries a message, and how many of them there are."""
BOUNDS = [0.1, 0.3, 1.0, 3.0]
BURST = 300
"""Deliveries whose handlers take 20 ms: three chunks for two children."""
BATCHES = [100, 300, 1_000, 3_000]


def chunk(lab: Lab) -> list[Row]:
    """Deliveries a second over deliveries a message (`CHUNK`)."""

    def measure(size: float) -> dict[str, float]:
        variant = _with({"SIGNALQ": {"CHUNK": int(size), "RELAY": False}})
        found = run(lab, variant, CHUNKS[int(size)] // lab.notebook.rounds(10, 1))
        return {
            "deliveries a second": 1 / found["seconds"],
            "CPU of the worker for one, µs": CPU * (found["children, µs"] + found["worker's parent, µs"]),
            "a chunk takes, ms": 2_000 * size * found["seconds"],  # two children
        }

    return by_turns("CHUNK", [1, 100] if lab.notebook.quick else list(CHUNKS), lab.notebook.rounds(1, 3), measure)


def _with(settings: dict[str, object]) -> Variant:
    return replace(VARIANTS["durable"], settings=settings)


def bound(lab: Lab) -> list[Row]:
    """A burst of slow handlers over the time that a chunk may take (`CHUNK_SECONDS`)."""
    cases = BOUNDS[1:3] if lab.notebook.quick else BOUNDS
    return by_turns("CHUNK_SECONDS", cases, lab.notebook.rounds(1, 3), lambda seconds: _burst(lab, seconds))


def _burst(lab: Lab, seconds: float) -> dict[str, float]:
    lab.empty("durable")
    lab.inside("durable").ask("backlog", count=BURST)
    observer = lab.observer("durable")
    before = observer.ask("updates")["updates"]
    variant = _with({"SIGNALQ": {"RELAY": False}, "BENCH_CONSTANTS": {"signalq.lease.CHUNK_SECONDS": seconds}})
    with lab.working(variant, "slow"):
        wait_until(lambda: observer.ask("done", work="insert")["done"] == BURST, "the burst", 60)
    began = sorted(observer.ask("first_effects").values())
    # A delivery is written twice after its INSERT, and twice more each time that it is handed back.
    handed_back = (observer.ask("updates")["updates"] - before) / BURST / 2 - 1
    return {
        "the last begins after, s": began[-1] - began[0],
        "handed back a delivery": handed_back,
    }


def batch(lab: Lab) -> list[Row]:
    """Rows a second of one relay over rows a transaction (`BATCH`)."""
    inside, count = lab.inside("durable"), lab.notebook.rounds(2_000, 30_000)

    def measure(size: float) -> dict[str, float]:
        lab.empty("durable")
        inside.ask("relay_fill", count=count)
        rate = inside.ask("relay_sweep", batch=int(size))["rate"]
        return {"rows a second": rate, "a batch takes, ms": 1_000 * size / rate}

    return by_turns("BATCH", BATCHES[1:3] if lab.notebook.quick else BATCHES, lab.notebook.rounds(1, 5), measure)

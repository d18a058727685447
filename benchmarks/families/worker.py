"""Worker: two processes work off a backlog that waits in the broker. The handler loads its object and inserts a row."""

from __future__ import annotations

import time

from benchmarks.lab import Lab
from benchmarks.processes import VariantError

INSERTING = {
    "h": 900, "h+": 2_500, "durable": 6_000, "durable one": 2_500, "transient+": 2_000,
}  # fmt: skip
SHARING = {"h+": 2_000, "durable": 3_000}
BATCHING = {"batch": 30_000, "celery-batches": 5_000}
PEERS = {
    "q-signals": 2_000, "procrastinate": 1_000, "tasks-db": 1_000, "huey": 2_500,
    "dramatiq": 1_500, "rq": 600,
}  # fmt: skip
COMPARED = ["h", "h+", "durable"]
"""What the table compares on other databases and brokers, too."""
PATIENCE = 40.0


def measure(lab: Lab, *, peers: bool) -> None:
    share = 3 if lab.notebook.quick else 1
    inserting = {name: count // share for name, count in INSERTING.items() if peers or name in COMPARED}
    sharing = {name: count // share for name, count in SHARING.items()}
    batching = {name: count // share for name, count in BATCHING.items() if peers}
    number = lab.notebook.rounds(1, 3)
    lab.rounds(number, list(inserting), lambda name: _round(lab, "insert", name, inserting[name]))
    lab.rounds(number, list(sharing), lambda name: _round(lab, "shared", name, sharing[name]))
    lab.rounds(number, list(batching), lambda name: _round(lab, "bulk", name, batching[name]))
    if peers and lab.notebook.every_peer:
        others = {name: count // share for name, count in PEERS.items()}
        lab.rounds(1, list(others), lambda name: _round(lab, "insert", name, others[name]))
    lab.end_insides()


def _round(lab: Lab, metric: str, name: str, count: int) -> None:
    work = "shared" if metric == "shared" else "insert"
    lab.empty(name)
    inside, observer = lab.inside(name), lab.observer(name)
    inside.ask("backlog", count=count)
    inside.ask("close")
    observer.ask("vacuum")
    with lab.worker(name, work) as workers:
        found = rate(lambda: int(observer.ask("done", work=work)["done"]), count, workers)
    lab.note("worker", metric, name, found)
    if work == "insert":
        verdict = observer.ask("verdict", expected=count)
        lab.note("worker", f"{metric} doubles", name, verdict["doubles"])
        lab.note("worker", f"{metric} missing", name, verdict["missing"])


def rate(done: object, count: int, workers: list[object]) -> float:
    """Handlers a second between the first look that saw one done and the one that saw all."""
    started = time.monotonic()
    first: tuple[int, float] | None = None
    moved_at, last = started, 0
    while True:
        now, number = time.monotonic(), done()  # type: ignore[operator]
        if number > last:
            moved_at, last = now, number
        if number and first is None:
            first = (number, now)
        if number >= count and first is not None:
            return (number - first[0]) / max(now - first[1], 1e-3)
        if now - moved_at > PATIENCE:
            log = workers[0].tail() if workers else ""  # type: ignore[attr-defined]
            raise VariantError(f"{number} of {count} handled, and nothing moved for {PATIENCE:.0f} s:\n{log}")
        time.sleep(0.05)

"""Capture: what a receiver adds to a save, in the process that saves."""

from __future__ import annotations

from benchmarks.lab import Lab

OURS = ["plain", "h", "durable", "transient"]
UNMATCHED = ["when false", "other sender"]
PEERS = [
    "delay_on_commit", "producer batch", "celery-batches", "celery-outbox", "q-signals", "procrastinate", "tasks-db",
    "huey", "dramatiq", "rq",
]  # fmt: skip


def measure(lab: Lab, *, peers: bool) -> None:
    each = lab.notebook.rounds(150, 300)

    def round_of(name: str) -> None:
        inside = lab.inside(name)
        lab.empty(name)
        inside.ask("save_many", count=50)  # connections, caches
        inside.ask("save_each", count=20)
        for metric, do, count in (("many", "save_many", 1_000), ("one", "save_each", each)):
            answer = inside.ask(do, count=count)
            lab.note("capture", metric, name, answer["seconds"] * 1e6)
            lab.note("capture", f"{metric} cpu", name, answer["cpu"] * 1e6)

    def unmatched(name: str) -> None:
        inside = lab.inside(name)
        lab.note("capture", "unmatched", name, inside.ask("send_signals", count=2_000)["seconds"] * 1e6)

    others = (PEERS if lab.notebook.every_peer else PEERS[:2]) if peers else []
    lab.rounds(lab.notebook.rounds(3, 7), [*OURS, *others], round_of)
    lab.rounds(lab.notebook.rounds(3, 7), ["plain", *UNMATCHED], unmatched)
    lab.end_insides()

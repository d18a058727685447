"""Relay: one process sends on what an outbox holds, until nothing is left. PostgreSQL only."""

from __future__ import annotations

import time

from benchmarks.lab import Lab
from benchmarks.processes import wait_until

HELD = {"durable": 30_000, "h": 3_000, "celery-outbox": 2_000}
QUICK = {"durable": 10_000, "h": 1_000, "celery-outbox": 700}


def measure(lab: Lab, *, peers: bool) -> None:
    counts = QUICK if lab.notebook.quick else HELD

    def round_of(name: str) -> None:
        inside, count = lab.inside(name), counts[name]
        lab.empty(name)
        if name == "celery-outbox":
            inside.ask("backlog", count=count)
            lab.note("relay", "rate", name, _outside_rate(lab, name, count))
            return
        answer = inside.ask("relay_ours" if name == "durable" else "relay_by_hand", count=count)
        assert answer["taken"] == count, answer  # noqa: S101
        lab.note("relay", "rate", name, answer["rate"])

    lab.rounds(lab.notebook.rounds(2, 5), ["durable", "h", *(["celery-outbox"] if peers else [])], round_of)
    lab.end_insides()


def _outside_rate(lab: Lab, name: str, count: int) -> float:
    """The rate of a relay command, from the first message that it sends to the last."""
    from benchmarks.processes import Process
    from benchmarks.variants import VARIANTS

    client = lab.broker.client()
    variant = VARIANTS[name]
    command = [variant.python, "-m", "django", "celery_outbox_relay"]
    relay = Process(command, lab.env(variant, "insert"), lab.log("relay"))
    try:
        wait_until(lambda: client.llen("celery"), "the relay's first message", 30, poll=0.01)
        first, started = client.llen("celery"), time.monotonic()
        wait_until(lambda: client.llen("celery") >= count, "the relay's last message", 60, poll=0.01)
        return float((count - first) / (time.monotonic() - started))
    finally:
        relay.end()

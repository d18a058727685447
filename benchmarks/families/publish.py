"""Publish: a transaction of many saves, from the last line before its commit until the broker holds all of it."""

from __future__ import annotations

import time

from benchmarks.lab import Lab
from benchmarks.processes import wait_until

COUNT = 1_000


def measure(lab: Lab, *, peers: bool) -> None:
    client = lab.broker.client() if lab.broker.kind == "redis" else None

    def held() -> int:
        """Deliveries that the queue holds: a message of signalq's carries many."""
        assert client is not None  # noqa: S101
        return int(client.llen("celery"))

    def round_of(name: str) -> None:
        inside = lab.inside(name)
        lab.empty(name)
        inside.ask("save_many", count=20)
        inside.ask("flush")
        lab.broker.empty()
        committing = inside.ask("save_many", count=COUNT)["committing"]
        # save_many has returned when all of it was handed to the broker; what is stored there is counted.
        ended = time.monotonic()
        expected = COUNT // 100 if name == "durable" else COUNT
        wait_until(lambda: client is None or held() >= expected, f"{expected} messages of {name}", 30)
        lab.note("publish", "rate", name, COUNT / (ended - committing))

    names = ["h", "durable", "transient", *(["producer batch"] if peers else [])]
    lab.rounds(lab.notebook.rounds(3, 7), names, round_of)
    lab.end_insides()

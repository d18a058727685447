"""Size: does the outbox stay as fast when it is long? Half of its rows are done, half wait. PostgreSQL only."""

from __future__ import annotations

from benchmarks.lab import Lab

SIZES = [10_000, 100_000, 1_000_000]


def measure(lab: Lab, *, sizes: list[int]) -> None:
    def round_of(name: str) -> None:
        inside = lab.inside(name)
        lab.empty(name)
        for size in sizes:
            inside.ask("grow", rows=size)
            inside.ask("outbox_times")  # warms up
            for _ in range(lab.notebook.rounds(5, 15)):
                for metric, value in inside.ask("outbox_times").items():
                    lab.note("size", metric, str(size), value)

    lab.rounds(1, ["durable"], round_of)
    lab.end_insides()

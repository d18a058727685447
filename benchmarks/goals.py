"""The goals: which figure is compared with which, and what it should be. A ratio is of one round, then the median."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.lab import Notebook

Values = Callable[[Notebook, str], list[float]]


@dataclass(frozen=True)
class Goal:
    """One row of the table."""

    family: str
    title: str
    values: Values
    most: float | None = None
    least: float | None = None
    unit: str = "×"
    columns: bool = False
    """Also measured on other databases and brokers, where there is no goal."""

    @property
    def bound(self) -> str:
        if self.most is not None:
            return f"≤ {self.most:g} {self.unit}"
        return f"≥ {self.least:g} {self.unit}"


@dataclass(frozen=True)
class Figure:
    """The median of the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float
    rounds: int


def figure(values: list[float]) -> Figure | None:
    if not values:
        return None
    if len(values) < 3:
        return Figure(statistics.median(values), min(values), max(values), len(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(median, low, high, len(values))


def passed(goal: Goal, found: Figure | None) -> bool | None:
    if found is None:
        return None
    return found.median <= goal.most if goal.most is not None else found.median >= (goal.least or 0)


def _of(notebook: Notebook, column: str, family: str, metric: str, name: str) -> list[float]:
    return notebook.values.get((column, family, metric, name), [])


def extra(metric: str, name: str, than: str | None = "h") -> Values:
    """What ``name`` adds to a plain save, in µs, or as a part of what ``than`` adds."""

    def values(notebook: Notebook, column: str) -> list[float]:
        plain, ours = (_of(notebook, column, "capture", metric, each) for each in ("plain", name))
        added = [mine - base for mine, base in zip(ours, plain, strict=False)]
        if than is None:
            return added
        theirs = [t - base for t, base in zip(_of(notebook, column, "capture", metric, than), plain, strict=False)]
        return [mine / other for mine, other in zip(added, theirs, strict=False) if other > 0]

    return values


def ratio(family: str, metric: str, name: str, than: str, its: str | None = None) -> Values:
    """``name`` over ``than``, whose metric is ``its`` if it is another."""

    def values(notebook: Notebook, column: str) -> list[float]:
        ours = _of(notebook, column, family, metric, name)
        pairs = zip(ours, _of(notebook, column, family, its or metric, than), strict=False)
        return [mine / theirs for mine, theirs in pairs if theirs]

    return values


def more(family: str, metric: str, name: str, than: str) -> Values:
    """What ``name`` has more than ``than``."""

    def values(notebook: Notebook, column: str) -> list[float]:
        ours, others = (_of(notebook, column, family, metric, each) for each in (name, than))
        return [mine - theirs for mine, theirs in zip(ours, others, strict=False)]

    return values


def at_rate(rate: int) -> Values:
    """p99 to H's in the rounds in which both savers kept to the timetable; in others nothing is compared."""

    def values(notebook: Notebook, column: str) -> list[float]:
        by_name = [
            [_of(notebook, column, "latency", f"{rate} {metric}", name) for metric in ("p99", "reached")]
            for name in ("durable", "h")
        ]
        (ours, our_rates), (others, their_rates) = by_name
        rounds = zip(ours, our_rates, others, their_rates, strict=False)
        return [mine / theirs for mine, rate_1, theirs, rate_2 in rounds if min(rate_1, rate_2) >= 0.95 * rate]

    return values


def growth(metric: str) -> Values:
    """The longest outbox measured against the shortest, medians of each."""

    def values(notebook: Notebook, column: str) -> list[float]:
        wanted = (column, "size", metric)
        sizes = sorted(int(name) for where, family, what, name in notebook.values if (where, family, what) == wanted)
        if len(sizes) < 2:
            return []
        short, long = (_of(notebook, column, "size", metric, str(size)) for size in (sizes[0], sizes[-1]))
        return [statistics.median(long) / statistics.median(short)]

    return values


def handled_once(notebook: Notebook, column: str) -> list[float]:
    """Effects that were missing or double in every worker round of signalq's durable delivery."""
    return [
        sum(values)
        for (where, family, metric, name), values in notebook.values.items()
        if where == column and family == "worker" and name in ("durable", "durable one", "batch")
        if metric.endswith((" doubles", " missing"))
    ]


GOALS = [
    Goal(
        "capture",
        "durable, 1,000 saves in a transaction: extra, of H's",
        extra("many", "durable"),
        most=0.08,
        columns=True,
    ),
    Goal("capture", "durable, one save a transaction: extra, of H's", extra("one", "durable"), most=0.30, columns=True),
    Goal(
        "capture",
        "transient, 1,000 saves in a transaction: extra, of H's",
        extra("many", "transient"),
        most=0.06,
        columns=True,
    ),
    Goal(
        "capture",
        "transient, one save a transaction: extra, of H's",
        extra("one", "transient"),
        most=0.10,
        columns=True,
    ),
    Goal(
        "capture",
        "no match: `when` is false, extra a signal",
        more("capture", "unmatched", "when false", "plain"),
        most=5,
        unit="µs",
    ),
    Goal(
        "capture",
        "no match: another sender, extra a signal",
        more("capture", "unmatched", "other sender", "plain"),
        most=5,
        unit="µs",
    ),
    Goal(
        "publish",
        "deliveries a second until the broker has 1,000 of them, to H's",
        ratio("publish", "rate", "durable", "h"),
        least=15,
        columns=True,
    ),
    Goal("relay", "rows a second, to a loop over `delay`", ratio("relay", "rate", "durable", "h"), least=15),
    Goal(
        "relay",
        "rows a second, to django-celery-outbox's",
        ratio("relay", "rate", "durable", "celery-outbox"),
        least=20,
    ),
    Goal("worker", "backlog, load and insert, to H", ratio("worker", "insert", "durable", "h"), least=5, columns=True),
    Goal(
        "worker", "backlog, load and insert, to H+", ratio("worker", "insert", "durable", "h+"), least=2, columns=True
    ),
    Goal("worker", "20 shared rows updated, to H+", ratio("worker", "shared", "durable", "h+"), least=1, columns=True),
    Goal("worker", "async_batch_receiver(size=100), to H", ratio("worker", "bulk", "batch", "h", "insert"), least=40),
    Goal(
        "worker",
        "async_batch_receiver(size=100), to celery-batches",
        ratio("worker", "bulk", "batch", "celery-batches"),
        least=10,
    ),
    Goal("worker", "one event a message, transient, to H+", ratio("worker", "insert", "transient+", "h+"), least=0.95),
    Goal(
        "worker",
        "one event a message, durable, connection kept, to H",
        ratio("worker", "insert", "durable one", "h"),
        least=1,
    ),
    Goal("worker", "effects missing or double, durable", handled_once, most=0, unit="", columns=True),
    Goal(
        "latency",
        "commit to handler, idle, durable, p50 to H's",
        ratio("latency", "idle p50", "durable", "h"),
        most=1.35,
        columns=True,
    ),
    Goal(
        "latency",
        "commit to handler, idle, durable, p99 to H's",
        ratio("latency", "idle p99", "durable", "h"),
        most=1.5,
        columns=True,
    ),
    Goal(
        "latency",
        "the same at 200 transactions a second, p99 to H's",
        at_rate(200),
        most=1,
    ),
    Goal(
        "latency",
        "the same at 500 transactions a second, p99 to H's",
        at_rate(500),
        most=1,
    ),
    Goal("size", "insert of 1,000 events, largest to smallest outbox", growth("insert"), most=1.3),
    Goal("size", "claim of 100, largest to smallest outbox", growth("claim"), most=1.3),
    Goal("size", "relay's batch of 1,000, largest to smallest outbox", growth("relay"), most=1.3),
    Goal(
        "footprint", "memory of a web process, over H's", more("footprint", "web", "durable", "h"), most=6, unit="MiB"
    ),
    Goal(
        "footprint",
        "memory of a worker's child, over H's",
        more("footprint", "child", "durable", "h"),
        most=6,
        unit="MiB",
    ),
    Goal(
        "footprint",
        "CPU time of the imports, over Django and Celery",
        more("footprint", "import", "durable", "h"),
        most=30,
        unit="ms",
    ),
]

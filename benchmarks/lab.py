"""Where a family of measurements works: a database, a broker, the variants' processes, and a notebook."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import services
from benchmarks.processes import Inside, Process, VariantError, say
from benchmarks.variants import ALONE, VARIANTS, Variant

MAIN = "postgresql, redis"
Key = tuple[str, str, str, str]
"""Column (database and broker), family, metric, variant."""


@dataclass
class Notebook:
    """Every figure of a run, one for each round; and what did not run, with the reason."""

    values: dict[Key, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    every_peer: bool = True

    def rounds(self, quick: int, full: int) -> int:
        return quick if self.quick else full


class Lab:
    """One column of the table: one database, one broker."""

    def __init__(self, notebook: Notebook, database: str, broker: str, directory: Path) -> None:
        self.notebook = notebook
        self.database, self.column = database, f"{database}, {broker}"
        self.directory = directory
        self.family = ""
        self.broker = services.Broker(broker, directory)
        self.insides: dict[str, Inside] = {}
        self.made: dict[str, Variant] = {}

    @property
    def is_main(self) -> bool:
        """The column with all families and peers, to which the goals belong."""
        return self.column == MAIN

    def __enter__(self) -> Lab:
        self.broker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end_insides()
        for variant in self.made.values():
            with contextlib.suppress(VariantError):
                self.start(variant).ask("destroy")
        self.end_insides()
        self.broker.stop()

    # processes

    def env(self, variant: Variant, work: str) -> dict[str, str]:
        return {
            **variant.env,
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "BENCH_WORK": work,
            "BENCH_DATABASE": json.dumps(services.database(self.database, variant.database)),
            "BENCH_SETTINGS": json.dumps(variant.settings),
            "BROKER_URL": self.broker.url,
            "BENCH_REDIS": self.broker.redis_url,
        }

    def log(self, name: str) -> Path:
        return self.directory / f"{name.replace(' ', '-')}-{time.monotonic_ns()}.log"

    def start(self, variant: Variant) -> Inside:
        """One more saving process; the database has to exist."""
        inside = Inside(variant.python, self.env(variant, "insert"), self.log(variant.name))
        self.insides[f"{variant.name} {len(self.insides)}"] = inside
        return inside

    def inside(self, name: str) -> Inside:
        """The saving process of a variant; its database is made with the first."""
        if name not in self.insides:
            variant = VARIANTS[name]
            if variant.database not in self.made:
                # The plain variant has all of the tables that those on Celery share.
                maker = VARIANTS["plain"] if variant.database == "celery" else variant
                self.notebook.facts[f"database {self.database}"] = self.start(maker).ask("create")
                self.made[variant.database] = maker
            self.insides[name] = self.start(variant)
        return self.insides[name]

    def observer(self, name: str) -> Inside:
        """A process that looks at the variant's database, and is not measured."""
        return self.inside("plain" if VARIANTS[name].database == "celery" else name)

    def end_insides(self) -> None:
        for inside in self.insides.values():
            inside.end()
        self.insides.clear()

    @contextlib.contextmanager
    def worker(self, name: str, work: str = "insert") -> Iterator[list[Process]]:
        """The variant's worker, two processes wide, started as its documentation says."""
        with self.working(VARIANTS[name], work) as processes:
            yield processes

    @contextlib.contextmanager
    def working(self, variant: Variant, work: str) -> Iterator[list[Process]]:
        """The same of a variant that is in no table."""
        command = [part.format(python=variant.python) for part in variant.worker]
        env = self.env(variant, work)
        processes = [
            Process(command, env, self.log(f"{variant.name}-worker")) for _ in range(ALONE.get(variant.name, 1))
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.end()

    def empty(self, name: str) -> None:
        self.observer(name).ask("empty")
        self.broker.empty()

    # notes

    def note(self, family: str, metric: str, name: str, value: float) -> None:
        self.notebook.values.setdefault((self.column, family, metric, name), []).append(value)

    def rounds(self, number: int, names: list[str], measure: Callable[[str], None]) -> None:
        """`measure` each variant, `number` times, by turns: what disturbs the machine disturbs them all."""
        for turn in range(number):
            for name in names if turn % 2 else reversed(names):
                what = f"{self.column}: {self.family}: {name}"
                if what in self.notebook.failures:
                    continue
                try:
                    measure(name)
                except (VariantError, OSError, json.JSONDecodeError) as error:
                    say(f"  {name}: {error}")
                    self.notebook.failures[what] = _in_a_line(str(error))


def _in_a_line(error: str) -> str:
    """What happened is its first line, or the last one of a traceback."""
    lines = error.strip().splitlines() or ["no reason given"]
    return lines[-1 if lines[0].startswith("Traceback") else 0][:300]

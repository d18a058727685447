"""What is measured: one module for each library, imported only in processes of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any

CELERY = ("{python}", "-m", "celery", "-A", "benchmarks.celeryapp", "worker", "--concurrency=2", "--loglevel=WARNING")
REUSE = {"CELERY_DB_REUSE_MAX": 1_000_000}
"""Celery then closes the database connection this seldom; without it, after every task."""

ONE = {**REUSE, "SIGNALQ": {"CHUNK": 1}}
DRAMATIQ = ("{python}", "-m", "dramatiq", "benchmarks.variants.dramatiq_worker", "--processes=2", "--threads=1")


@dataclass(frozen=True)
class Variant:
    """A module of this package, a flavour of it, and how its worker is started with two processes."""

    name: str
    module: str
    title: str
    flavour: str = ""
    worker: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """Those on Celery share one; a peer has its own tables."""
        return "celery" if self.module in ("plain", "hand", "ours", "batches") else self.module

    @property
    def python(self) -> str:
        """celery-batches does not go with the newest Celery, so that it may live in an environment of its own."""
        return os.environ.get("BENCH_BATCHES_PYTHON", sys.executable) if self.module == "batches" else sys.executable

    @property
    def env(self) -> dict[str, str]:
        return {"BENCH_VARIANT": self.module, "BENCH_FLAVOUR": self.flavour}


def _manage(*arguments: str) -> tuple[str, ...]:
    return ("{python}", "-m", "django", *arguments)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("plain", "plain", "no receiver"),
        Variant("h", "hand", "hand-written: on_commit + delay (H)", "delay", CELERY),
        Variant("h+", "hand", "the same, connection kept (H+)", "delay", CELERY, REUSE),
        Variant("durable", "ours", "signalq, durable", "durable", CELERY),
        Variant("transient", "ours", "signalq, transient", "transient", CELERY),
        Variant("durable one", "ours", "signalq, one event a message, connection kept", "durable", CELERY, ONE),
        Variant("transient+", "ours", "signalq, transient, connection kept", "transient", CELERY, REUSE),
        Variant("batch", "ours", "signalq, async_batch_receiver", "batch", CELERY),
        Variant("when false", "ours", "signalq, `when` is false", "when false"),
        Variant("other sender", "ours", "signalq, another sender", "other sender"),
        Variant("delay_on_commit", "hand", "Celery's delay_on_commit", "delay_on_commit", CELERY),
        Variant("producer batch", "hand", "kombu's Producer.batch", "producer batch", CELERY),
        Variant("celery-batches", "batches", "celery-batches", "", CELERY),
        Variant("celery-outbox", "celery_outbox", "django-celery-outbox", "", CELERY),
        Variant("q-signals", "q_signals", "django-q-signals on django-q2", "", _manage("qcluster")),
        Variant(
            "procrastinate",
            "procrastinate_",
            "procrastinate",
            "",
            _manage("procrastinate", "worker", "--concurrency=1"),
        ),
        Variant(
            "tasks-db", "tasks_db", "django-tasks-db", "", _manage("db_worker", "--no-startup-delay", "--interval=0.1")
        ),
        Variant("huey", "huey_", "huey", "", _manage("run_huey", "--workers=2", "--worker-type=process", "--quiet")),
        Variant("dramatiq", "dramatiq_", "dramatiq", "", DRAMATIQ),
        Variant("rq", "rq_", "rq", "", ("{python}", "-m", "benchmarks.variants.rq_worker")),
    )
}
ALONE = {"procrastinate": 2, "tasks-db": 2}
"""Workers of one process: this many are started."""
PEERS = [name for name in VARIANTS if VARIANTS[name].module not in ("plain", "hand", "ours")]

"""The run: every family on PostgreSQL with Redis, then the core of it on the other databases and brokers.

python -m benchmarks               all of it; under 20 minutes on two cores
python -m benchmarks --quick       fewer rounds, smaller backlogs, no peers' workers: under 3
python -m benchmarks --only worker --only capture
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from importlib import import_module, metadata
from pathlib import Path

from benchmarks import report, services
from benchmarks.lab import Lab, Notebook
from benchmarks.processes import ROOT, say

FAMILIES = ["capture", "publish", "relay", "worker", "latency", "size", "footprint"]
ELSEWHERE = ["capture", "publish", "worker", "latency"]
"""What is measured on the other databases and brokers, too."""
COMMITTING = ["worker", "latency"]
"""What is measured without waiting for commits, too: what commits in a request is its own."""
PACKAGES = [
    "Django", "celery", "kombu", "redis", "psycopg", "celery-batches", "django-celery-outbox", "django-q-signals",
    "django-q2", "procrastinate", "django-tasks-db", "huey", "dramatiq", "rq",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--long", action="store_true", help="an outbox of ten million rows, too")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="this family alone; may be repeated")
    parser.add_argument("--columns", action="store_true", help="the other databases and brokers, too, when quick")
    parser.add_argument("--peers", action="store_true", help="every peer, too, when quick")
    parser.add_argument("--output", type=Path, default=ROOT / "var")
    arguments = parser.parse_args()
    notebook = Notebook(quick=arguments.quick, every_peer=arguments.peers or not arguments.quick)
    notebook.facts.update(_machine())
    # Told to end, it removes its databases as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(1))
    with services.scratch() as directory:
        _run(notebook, arguments, directory)
    sys.stdout.write(report.table(notebook))


def _keep(notebook: Notebook, output: Path) -> None:
    """After each family, so that a run that is ended has something to show."""
    notebook.facts["load at the end"] = os.getloadavg()
    output.mkdir(parents=True, exist_ok=True)
    (output / "bench.json").write_text(report.as_json(notebook))
    (output / "bench.md").write_text(report.table(notebook))
    report.plots(notebook, output / "bench")


def _run(notebook: Notebook, arguments: argparse.Namespace, directory: Path) -> None:
    only, started = arguments.only or FAMILIES, time.monotonic()
    sizes = [10_000, 100_000] if arguments.quick else [10_000, 100_000, 1_000_000]
    for database, broker in _columns(arguments):
        with Lab(notebook, database, broker, directory) as lab:
            for family in (name for name in _families(lab) if name in only):
                say(f"{time.monotonic() - started:6.0f} s  {lab.column}: {family}  (load {os.getloadavg()[0]:.1f})")
                lab.family = family
                module = import_module(f"benchmarks.families.{family}")
                if family == "size":
                    module.measure(lab, sizes=sizes + ([10_000_000] if arguments.long else []))
                else:
                    module.measure(lab, peers=lab.is_main)
                notebook.facts["seconds"] = round(time.monotonic() - started)
                _keep(notebook, arguments.output)
        # Elsewhere a few rounds are enough: there are no goals to be judged by them.
        notebook.quick = True


def _families(lab: Lab) -> list[str]:
    if lab.is_main:
        return FAMILIES
    return COMMITTING if lab.database == services.NO_WAIT else ELSEWHERE


def _columns(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    found = services.available()
    every = [("postgresql", "redis")]
    if not arguments.quick or arguments.columns:
        every += [(services.NO_WAIT, "redis")]
        every += [(database, "redis") for database in found["databases"] if database != "postgresql"]
        every += [("postgresql", broker) for broker in found["brokers"] if broker != "redis"]
    return every


def _machine() -> dict[str, object]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed here"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load at the start": os.getloadavg(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()

"""Footprint: memory of a web process and of a worker's children, and the CPU time that importing takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from benchmarks.lab import Lab
from benchmarks.processes import ROOT, wait_until
from benchmarks.variants import VARIANTS

NAMES = ["h", "durable"]
IMPORT = """
import os, time
started = time.process_time()
import django
django.setup()
from benchmarks import celeryapp
celeryapp.app.loader.import_default_modules()
print(1000 * (time.process_time() - started))
"""


def measure(lab: Lab, *, peers: bool) -> None:
    lab.rounds(lab.notebook.rounds(1, 3), NAMES, lambda name: _memory(lab, name))
    # The hand-written variant, and the same with signalq installed: what the package and its models add.
    for name in NAMES:
        _import_time(lab, name)  # now there is bytecode
    number = lab.notebook.rounds(5, 21)
    lab.rounds(number, NAMES, lambda name: lab.note("footprint", "import", name, _import_time(lab, name)))
    lab.end_insides()


def _memory(lab: Lab, name: str) -> None:
    lab.end_insides()  # a fresh web process
    inside, observer = lab.inside(name), lab.observer(name)
    lab.empty(name)
    inside.ask("save_each", count=50)
    inside.ask("save_many", count=200)
    inside.ask("flush")
    lab.note("footprint", "web", name, inside.ask("memory")["mib"])
    lab.empty(name)
    with lab.worker(name) as workers:
        inside.ask("backlog", count=400)
        wait_until(lambda: observer.ask("done", work="insert")["done"] >= 400, f"the worker of {name}", 40)
        time.sleep(0.5)  # the last settle and its garbage
        sizes: dict[str, list[float]] = {}
        for child in workers[0].children():
            # signalq's relay is a process that plain Celery does not have.
            kind = "relay" if "relay" in child.cmdline() else "child"
            sizes.setdefault(kind, []).append(child.memory_full_info().uss / 2**20)
        for kind, mib in sizes.items():
            lab.note("footprint", kind, name, statistics.fmean(mib))


def _import_time(lab: Lab, name: str) -> float:
    # With bytecode for all of it, as pip leaves it: a source tree would be compiled each time where none is written.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(lab.directory / "bytecode")}
    env = {**os.environ, **bytecode, "PYTHONPATH": str(ROOT), **lab.env(VARIANTS[name], "insert")}
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout)

"""The figures of docs/scale.md, on PostgreSQL with Redis.

python -m benchmarks.scale               all of it, ten to fifteen minutes
python -m benchmarks.scale --quick       one round with little in it: does it run?
python -m benchmarks.scale --only workers --only chunk

The tables are printed, and kept in var/scale.md; every figure of every round is in var/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import services
from benchmarks.lab import Lab, Notebook
from benchmarks.processes import ROOT, say
from benchmarks.scale import curves, growth, publishing, sizing, spent, upkeep
from benchmarks.scale.table import Row, markdown

FAMILIES = {
    family.__name__: family
    for family in (
        *(growth.writers, growth.workers, growth.relays),
        *(curves.chunk, curves.bound, curves.batch, publishing.grouping, publishing.queue),
        *(spent.costs, upkeep.vacuum, upkeep.throttle, upkeep.partitions),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=list(FAMILIES), help="may be repeated")
    parser.add_argument("--output", type=Path, default=ROOT / "var")
    arguments = parser.parse_args()
    # Told to end, it removes its databases as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(1))
    notebook = Notebook(quick=arguments.quick)
    notebook.facts.update({"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "quick": arguments.quick})
    with services.scratch() as directory, Lab(notebook, "postgresql", "redis", directory) as lab:
        found = _measure(lab, arguments.only or list(FAMILIES), arguments.output)
    sys.stdout.write(_report(found))


def _report(found: dict[str, list[Row]]) -> str:
    return markdown(found) + sizing.markdown(found)


def _measure(lab: Lab, names: list[str], output: Path) -> dict[str, list[Row]]:
    """Each family's table, kept when it is there."""
    found: dict[str, list[Row]] = {}
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    lab.inside("plain")  # makes the database
    for name in names:
        load = os.getloadavg()[0]
        say(f"{time.monotonic() - started:6.0f} s  {name}  (load {load:.1f})")
        found[name] = FAMILIES[name](lab)
        facts: dict[str, Any] = {**lab.notebook.facts, "seconds": round(time.monotonic() - started)}
        (output / "scale.json").write_text(json.dumps({"facts": facts, "tables": found}, indent=1))
        (output / "scale.md").write_text(_report(found))
        lab.end_insides()
    return found


if __name__ == "__main__":
    main()

"""The benchmarks behind docs/scale.md run, and their tables have figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.scale import sizing
from tests.integration.harness import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ["relays", "batch", "grouping", "throttle", "costs"]


@pytest.mark.timeout(300)
def test_a_quick_run_measures_and_sizes(tmp_path: Path) -> None:
    only = [part for name in FAMILIES for part in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks.scale", "--quick", "--output", str(tmp_path), *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "scale.json").read_text())["tables"]
    assert list(tables) == FAMILIES
    rates = [row["rows a second"] for name in ("relays", "batch") for row in tables[name]]
    assert all(value > 0 for values in rates for value in values)
    assert done.stdout == (tmp_path / "scale.md").read_text()
    assert "| shards | " in done.stdout


def test_sizing_is_the_arithmetic_that_it_states() -> None:
    one = sizing.Measured(100, 10, 20, 40, 50, 300, 600, 1_000, 70, 2**20, 1_000, 20_000, 30_000)
    found = {what: (by, result(1_000)) for what, by, result in sizing.lines(one)}
    assert found["web: cores for signalq"] == ("r × 100 µs", pytest.approx(0.1))
    assert found["database: cores, shared"] == ("r × 80 µs", pytest.approx(0.08))
    assert found["database: cores, alone"] == ("r × 100 µs", pytest.approx(0.1))
    assert found["relays"] == ("r × 0.05 ÷ 20,000", pytest.approx(0.0025))
    assert found["vacuums at once"] == ("r × 3 ÷ 30,000", pytest.approx(0.1))
    assert found["log of the database, MiB/s"][1] == pytest.approx(1_000)
    assert found["shards"][1] == 1
    (shards,) = (result for what, _, result in sizing.lines(one) if what == "shards")
    assert shards(100_000) == 2

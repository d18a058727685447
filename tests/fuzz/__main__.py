"""Fuzzing guided by coverage: `python -m tests.fuzz text --seconds 60 --seed 1`; `all` takes one target after another.

Each target runs in a process of its own, as the fuzzer ends its process. What it finds beyond the corpus is not kept;
an input that breaks a promise is written to var/fuzz, and the exit status is not 0. `--replay FILE` shows it again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BROKEN = HERE.parents[1] / "var" / "fuzz"
NAMES = ("text", "event", "message")
TEXT_LIMIT = 4096
"""Bytes of an input: what is found is found in small ones, and large ones have tests of their own."""


def run(name: str, seconds: float, seed: int) -> tuple[int, str]:
    """Fuzz one target; executions, and what it printed. Raises CalledProcessError if a promise was broken."""
    BROKEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as found:
        command = [sys.executable, "-m", "tests.fuzz", name, "--inside", found, f"-max_total_time={seconds:g}"]
        command += [f"-seed={seed}", f"-artifact_prefix={BROKEN}/{name}-", f"-dict={HERE / 'json.dict'}"]
        command += [f"-max_len={TEXT_LIMIT}", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60)
    output = done.stdout + done.stderr
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, output)
    executed = re.search(r"number_of_executed_units: *(\d+)", output)
    return int(executed.group(1)) if executed else 0, output


def inside(name: str, arguments: list[str]) -> None:
    """In the process that is the fuzzer's: load signalq with its branches counted, and never return."""
    import atheris

    with atheris.instrument_imports(include=["signalq"]):
        target = load(name)
    found, *options = arguments
    atheris.Setup([sys.argv[0], *options, found, str(HERE / "corpus" / name)], target)
    atheris.Fuzz()


def load(name: str):  # type: ignore[no-untyped-def]
    import logging

    import django

    django.setup()
    logging.disable()  # a line for each refused message
    from tests.fuzz.targets import TARGETS

    return TARGETS[name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz what signalq reads.")
    parser.add_argument("target", choices=(*NAMES, "all"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--replay", type=Path)
    options = parser.parse_args()
    if options.replay:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
        load(options.target)(options.replay.read_bytes())
        return
    for name in NAMES if options.target == "all" else (options.target,):
        try:
            executed, _ = run(name, options.seconds, options.seed)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{name}, seed {options.seed}: a promise is broken\n{error.output}")
        print(f"{name}: {executed:,} executions in {options.seconds:g} s, seed {options.seed}, nothing broken")  # noqa: T201


if __name__ == "__main__":
    if sys.argv[2:3] == ["--inside"]:
        inside(sys.argv[1], sys.argv[3:])
    else:
        main()

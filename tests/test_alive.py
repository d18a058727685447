"""worker/alive.py: the marks of workers and relays, and the check that looks at them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker import alive

ROOT = Path(__file__).parents[1]
CHECK = ROOT / "worker" / "alive.py"


def check(directory: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """As a container's health check runs it."""
    command = [sys.executable, "-I", str(CHECK), *names]
    env = {"ALIVE_DIR": str(directory)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_fresh_marks_are_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(alive.VARIABLE, str(tmp_path / "made"))
    alive._worker_turns(sender=None)
    alive._relay_turns(sender=None)
    assert check(tmp_path / "made", "worker", "relay").returncode == 0


@pytest.mark.parametrize(("age", "code"), [(alive.STALE - 10, 0), (alive.STALE + 10, 1)])
def test_an_old_mark_is_not(tmp_path: Path, age: float, code: int) -> None:
    (tmp_path / "worker").touch()
    os.utime(tmp_path / "worker", (time.time() - age,) * 2)
    done = check(tmp_path, "worker")
    assert done.returncode == code
    assert ("worker: no sign of life for 40 s" in done.stderr) == bool(code)


def test_each_that_is_asked_for_counts(tmp_path: Path) -> None:
    (tmp_path / "relay").touch()
    done = check(tmp_path, "worker", "relay")
    assert (done.returncode, done.stderr.strip()) == (1, "worker: no sign of life yet")


def test_a_relay_leaves_its_mark(tmp_path: Path) -> None:
    command = [sys.executable, "project/manage.py", "signalq", "relay", "--once"]
    env = {**os.environ, "ALIVE_DIR": str(tmp_path / "alive"), "DEMO_DIR": str(tmp_path)}
    env |= {"DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": ""}
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    assert [path.name for path in (tmp_path / "alive").iterdir()] == ["relay"]
    assert check(tmp_path / "alive", "relay").returncode == 0


def test_a_worker_leaves_both(tmp_path: Path, redis_broker: str) -> None:
    """Its own, and that of the relay that it has started."""
    env = {**os.environ, "ALIVE_DIR": str(tmp_path / "alive"), "DEMO_DIR": str(tmp_path), "BROKER_URL": redis_broker}
    env |= {"DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": ""}
    worker = subprocess.Popen([sys.executable, "-m", "worker", "--concurrency=1"], cwd=ROOT, env=env)
    try:
        deadline = time.monotonic() + 60
        while check(tmp_path / "alive", "worker", "relay").returncode and time.monotonic() < deadline:
            time.sleep(0.1)
        assert check(tmp_path / "alive", "worker", "relay").stderr == ""
    finally:
        worker.terminate()
        worker.wait(timeout=30)

"""The components in a reader's project: what is published, what is refused, what is left when the tests are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from signalq import child_settings
from signalq.pytest_celery import child_environment, components, wait_until_settled
from tests.docs.blocks import PAGES, blocks
from tests.integration.harness import is_alive, wait_for
from tests.test_docs import write_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_celery import CeleryTestBroker

pytest_plugins = ["pytester"]

(TESTING,) = [page for page in PAGES if page.name == "testing.md"]
CONFTEST = [block for block in blocks(TESTING, "python") if block.file in ("conftest.py", "shop/receivers.py")]
PUBLISHES = """
import pytest
from signalq.pytest_celery import wait_until_settled

@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("time", [1, 2])
def test_publishes(client, celery_setup, settings, time):
    client.post("/sign-up/", {"username": "ada", "email": "ada@example.com"})
    (delivery,) = wait_until_settled()
    assert (delivery.state, delivery.repeats) == ("done", 0), "not published, but found by a relay"
"""
STAYS = """
import pathlib, pytest, sys

@pytest.mark.django_db(transaction=True)
def test_stays(celery_setup):
    nodes = [celery_setup.worker, celery_setup.broker]
    pathlib.Path("pids.new").write_text(" ".join(str(node.container.pid) for node in nodes))
    pathlib.Path("pids.new").rename("pids")
    sys.stdin.read()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(pytester.path, CONFTEST)
    pytester.makeini("[pytest]\npythonpath = .")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mysite.settings")
    return pytester.path


def test_what_a_test_saves_is_published_to_its_broker(pytester: pytest.Pytester, project: Path) -> None:
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write('\nSIGNALQ = {"PUBLISH": False}\n')
    (project / "test_it.py").write_text(PUBLISHES)
    pytester.runpytest_subprocess("test_it.py", timeout=100).assert_outcomes(passed=2)


def test_a_database_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, django_db_setup: None) -> None:
    monkeypatch.setattr(connections["sqlite"], "is_in_memory_db", lambda: True)
    with pytest.raises(RuntimeError, match=r"'sqlite' is in memory.*'test\.sqlite3'"):
        child_environment("mysite.settings")


def test_the_projects_own_database_is_refused(pytester: pytest.Pytester, project: Path) -> None:
    """The test asks for no database, so that the connection is still the project's."""
    (project / "test_it.py").write_text("def test_it(celery_setup): ...")
    result = pytester.runpytest_subprocess("test_it.py", timeout=100)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*own database *db.sqlite3*, not on a test's*"])


def test_processes_end_with_tests_that_are_killed(project: Path) -> None:
    (project / "test_it.py").write_text(STAYS)
    command = [sys.executable, "-m", "pytest", "-s", "test_it.py"]
    with subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as tests:
        wait_for((project / "pids").exists, "worker and broker to run", timeout=90)
        pids = [int(pid) for pid in (project / "pids").read_text().split()]
        processes = [psutil.Process(pid) for pid in pids]
        processes += [child for process in processes for child in process.children(recursive=True)]
        assert len(processes) >= 4, "worker, two children, redis"
        os.kill(tests.pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, processes)), "all of them to end")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The settings of a child whose alias `legacy` is given this database."""
    module: Any = type(sys)("its_settings")
    module.DATABASES = {"default": {"NAME": "shop", "TEST": {"NAME": "shop"}}, "legacy": {"NAME": "old"}}
    module.SIGNALQ = {"PUBLISH": False, "LEASE": 5}
    monkeypatch.setitem(sys.modules, "its_settings", module)

    def read(legacy: str) -> dict[str, Any]:
        databases = {"default": "shop", "legacy": legacy, "unknown": "x"}
        asked = {"module": "its_settings", "databases": databases, "settings": {"SIGNALQ": {"PUBLISH": True}}}
        return child_settings.read(json.dumps(asked))

    return read


def test_a_child_has_the_projects_settings_with_the_tests_over_them(read: Callable[[str], dict[str, Any]]) -> None:
    found = read("test_old")
    assert found["SIGNALQ"] == {"PUBLISH": True, "LEASE": 5}
    assert {alias: settings["NAME"] for alias, settings in found["DATABASES"].items()} == {
        "default": "shop",
        "legacy": "test_old",
    }
    assert found["EMAIL_BACKEND"] == child_settings.LOCMEM


def test_a_child_refuses_each_database_that_is_not_a_tests(read: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'old', not on a test's.*of 'legacy'"):
        read("old")


def test_waiting_inside_a_transaction_is_refused(db: None) -> None:
    with pytest.raises(RuntimeError, match=r"transaction=True"):
        wait_until_settled()


def test_a_given_broker_is_not_a_tests_to_kill(rabbitmq: CeleryTestBroker) -> None:
    with pytest.raises(RuntimeError, match="given by its url"):
        rabbitmq.kill()
    with pytest.raises(RuntimeError, match="given by its url"):
        rabbitmq.restart()


def test_without_any_redis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(components.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt-get install redis-server"):
        components.find_redis_server()


def test_without_pytest_celery_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['pytest_celery'] = None; import signalq.pytest_celery"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: signalq.pytest_celery needs pytest_celery: pip install 'signalq[pytest-celery]'." in (
        done.stderr
    )


def test_importing_signalq_and_its_plugin_does_not_load_it() -> None:
    code = "import sys, signalq.testing, pytest_signalq; assert 'pytest_celery' not in sys.modules"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_childs_environment_says_where_the_tests_databases_are(alias: str) -> None:
    asked = json.loads(child_environment("mysite.settings", {"DEBUG": True})[child_settings.VARIABLE])
    assert asked["module"] == "mysite.settings"
    assert asked["databases"]["default"].startswith("test_signalq_")
    assert asked["settings"] == {"DEBUG": True, "SIGNALQ": {"PUBLISH": True}}

"""docker-compose.yml, really brought up: every service healthy, and the demo's scenario played on it over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from project.demo.browser import Browser
from project.demo.processes import ServiceError, until
from tests.compose.stack import ROOT, Compose, missing
from tests.conftest import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(bool(missing()), reason=f"needs Docker: {missing()}"),
    pytest.mark.alone,
    pytest.mark.timeout(1800),
]

BROKERS = {"redis": "redis://redis:6379/0", "rabbitmq": "amqp://signalq:signalq@rabbitmq:5672//"}
PROFILES = {"redis": "", "rabbitmq": "rabbitmq,metrics"}


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(request: pytest.FixtureRequest, broker: str) -> Iterator[Compose]:
    compose = Compose(f"signalq-test-{broker}-{os.getpid()}", BROKERS[broker], PROFILES[broker])
    with contextlib.ExitStack() as ends:
        ends.callback(compose.down)
        try:
            compose.up()
        except ServiceError:
            tell(compose)
            raise
        yield compose
        if request.node.stash.get(FAILED, False):
            tell(compose)


def tell(stack: Compose) -> None:
    """The containers and the ends of their logs, for a test that has failed."""
    sys.stderr.write(stack("ps", "--all") + stack("logs", "--tail=50", "--no-color"))


def test_the_demo(stack: Compose, broker: str) -> None:
    """One test, as the stack takes its time to come up."""
    assert stack.is_healthy(), stack.health()
    assert stack.containers()["migrate"]["State"]["ExitCode"] == 0

    assert play(stack) == 0  # its worker is killed in the rush, and all expectations hold: nothing is lost
    assert stack.containers()["worker"]["RestartCount"] >= 1
    assert "celery@" in stack.get("flower", 5555, "workers")
    if broker == "rabbitmq":
        watched(stack)

    unreachable(stack, broker)
    for service in ("relay", "web", broker, "postgres"):
        stack.kill(service)
        stack.await_restart(service)
    until(stack.is_healthy, "every service is healthy again", timeout=120)
    Browser(stack.url).post("accounts/sign-up/", username="late", email="late@example.com")
    until(lambda: [each for each in stack.mails() if each.to == "late@example.com"], "the mail of who came late")


def play(stack: Compose) -> int:
    with tempfile.TemporaryDirectory() as directory:
        environment = {**stack.client_environment(), "DEMO_DIR": directory, "COMPOSE_BROKER_URL": stack.broker_url}
        command = [sys.executable, "-m", "tests.compose.play", stack.project]
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=600, check=False).returncode


def unreachable(stack: Compose, broker: str) -> None:
    """A worker that hears nothing from its broker is not healthy, and is again when it does."""
    stack("pause", broker)
    until(lambda: stack.health()["worker"] == "unhealthy", "the worker is unhealthy", timeout=120)
    assert stack.health()["relay"] == "healthy"
    stack("unpause", broker)
    until(lambda: stack.health()["worker"] == "healthy", "the worker is healthy again", timeout=120)


def watched(stack: Compose) -> None:
    """Prometheus hears of each worker and of the web server, and Grafana finds what it is given."""
    stack("up", "--detach", "--wait", "--scale", "worker=2")
    until(lambda: up(stack) == {"web": 1, "worker": 2}, "Prometheus reaches the web server and both workers")
    assert value(stack, 'sum(signalq_deliveries{state!="dead"})') == 0
    assert value(stack, 'max by (job) (signalq_outcomes_total{job="worker", outcome="done"})') > 0
    assert json.loads(stack.get("grafana", 3000, "api/health"))["database"] == "ok"


def up(stack: Compose) -> dict[str, float]:
    return {each["metric"]["job"]: float(each["value"][1]) for each in query(stack, "sum by (job) (up)")}


def value(stack: Compose, expression: str) -> float:
    (found,) = query(stack, expression)
    return float(found["value"][1])


def query(stack: Compose, expression: str) -> list[dict[str, dict[str, str]]]:
    answer = json.loads(stack.get("prometheus", 9090, f"api/v1/query?query={quote(expression)}"))
    found: list[dict[str, dict[str, str]]] = answer["data"]["result"]
    return found

"""signalq's own components, as a project would have them in its conftest.py.

`broker`  a Redis of the test's own; RabbitMQ where a test asks for it
`saver`   starts the process that saves, with more settings if need be
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import celery
import pytest
from pytest_docker_tools import fxtr

from signalq.pytest_celery import child_environment, local_broker, local_relay, local_worker, no_backend
from tests.integration.harness import Saver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_celery import CeleryTestBroker

SETTINGS = "tests.smoke.settings"
APP = "tests.integration.celeryapp"

own_redis = local_broker()
rabbitmq = local_broker(fxtr("rabbitmq_broker"))
celery_backend_cluster = no_backend()
celery_worker = local_worker(APP, env=fxtr("environment"))
other_worker = local_worker(APP, env=fxtr("environment"), name="other")
mail_worker = local_worker(APP, env=fxtr("environment"), name="mail", queues=["mail"])
worker_without_relay = local_worker(APP, env=fxtr("environment"), settings={"SIGNALQ": {"RELAY": False}})
relay = local_relay(env=fxtr("environment"))


@pytest.fixture(params=["redis"])
def broker(request: pytest.FixtureRequest) -> CeleryTestBroker:
    return request.getfixturevalue({"redis": "own_redis", "rabbitmq": "rabbitmq"}[request.param])


@pytest.fixture
def celery_broker(broker: CeleryTestBroker) -> CeleryTestBroker:
    return broker


@pytest.fixture(params=["default"])
def alias(alias: str) -> str:
    """PostgreSQL alone: what differs between databases is SQL, and tested elsewhere."""
    return alias


@pytest.fixture(autouse=True)
def current_app() -> Iterator[None]:
    """pytest-celery makes its app this thread's current one, here and at each restart of a worker, and leaves it so.

    There is no project's app in this process, or `project_app()` would do.
    """
    before = celery.current_app._get_current_object()
    yield
    before.set_current()


@pytest.fixture
def environment(alias: str, tmp_path: Path) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "SIGNALQ_TEST_ALIAS": alias,
        "SIGNALQ_TEST_SCRATCH": str(tmp_path),
    }


@pytest.fixture
def saver(
    celery_broker: CeleryTestBroker, environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., Saver]]:
    savers = []

    def start(**settings: Any) -> Saver:
        env = {**environment, **child_environment(SETTINGS, {"SIGNALQ": settings})}
        env["CELERY_BROKER_URL"] = celery_broker.config()["host_url"]
        saver = Saver(
            "saver", [sys.executable, "-m", "tests.integration.saver"], tmp_path / "saver.log", env, pipe=True
        )
        savers.append(saver)
        saver.answer()
        return saver

    yield start
    for saver in savers:
        saver.kill()


@pytest.fixture
def held(tmp_path: Path) -> Callable[[], list[int]]:
    """The process groups of the handlers that have written and wait: the pids of their workers."""
    return lambda: [os.getpgid(int(path.name.split("-")[1])) for path in tmp_path.glob("held-*")]


@pytest.fixture
def release(tmp_path: Path) -> Callable[[], None]:
    """Let them go on."""
    return (tmp_path / "release").touch

"""The demo's image: a round trip, a worker that is killed, and a relay that finds what the broker never got."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import wait_for

if TYPE_CHECKING:
    from pytest_celery import CeleryTestSetup
    from pytest_docker_tools.wrappers import Container

    from signalq.pytest_celery import RelayContainer

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]  # the first builds the image

SIGN_UP = "from django.contrib.auth.models import User; User.objects.create(username='{}', email='a@example.com')"
STATES = "SELECT state, count(*) FROM signalq_delivery GROUP BY state"


def python(container: Container, code: str) -> None:
    exit_code, output = container.exec_run(["python", "project/manage.py", "shell", "--command", code])
    assert exit_code == 0, output.decode()


def states(postgres: Container) -> dict[str, int]:
    command = ["psql", "--host=127.0.0.1", "--username=signalq", "--tuples-only", "--no-align", "--command", STATES]
    exit_code, output = postgres.exec_run(command, environment={"PGPASSWORD": "signalq"})
    assert exit_code == 0, output.decode()
    rows = [line.split("|") for line in output.decode().split()]
    return {state: int(count) for state, count in rows}


def test_round_trip_kill_and_restart(celery_setup: CeleryTestSetup, relay: RelayContainer, postgres: Container) -> None:
    assert celery_setup.ready()
    worker = celery_setup.worker
    python(worker.container, SIGN_UP.format("ada"))
    wait_for(lambda: set(states(postgres)) == {"done"}, "the first sign-up to be handled")
    (handled,) = states(postgres).values()
    worker.assert_log_exists("Welcome, ada")

    worker.kill()
    assert worker.container.status == "exited"
    python(relay, SIGN_UP.format("grace"))
    assert states(postgres) == {"done": handled, "queued": handled}
    worker.restart()
    wait_for(lambda: states(postgres) == {"done": 2 * handled}, "the second sign-up to be handled")
    assert worker.logs().count("Welcome, grace") == 1


def test_the_relay_finds_what_the_broker_never_got(
    celery_setup: CeleryTestSetup, relay: RelayContainer, postgres: Container
) -> None:
    worker, broker = celery_setup.worker, celery_setup.broker
    worker.kill()
    broker.kill()
    python(relay, SIGN_UP.format("ada"))
    assert set(states(postgres)) == {"queued"}
    broker.restart()
    # No worker is there, whose own relay would do it.
    wait_for(lambda: broker.container.exec_run("redis-cli llen celery")[1] != b"0\n", "the relay to publish")
    worker.restart()
    wait_for(lambda: set(states(postgres)) == {"done"}, "the sign-up to be handled")

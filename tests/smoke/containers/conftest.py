"""The demo project in containers of its own image, beside a PostgreSQL and a Redis: `pytest -m docker tests/smoke`."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING

import docker
import pytest
from pytest_celery import celery_worker as worker_of_default_container
from pytest_docker_tools import build, container

from signalq.pytest_celery import no_backend, relay_container, worker_container
from tests.integration.harness import ROOT, wait_for

if TYPE_CHECKING:
    from docker.models.images import Image
    from pytest_celery import CeleryTestBroker
    from pytest_docker_tools.wrappers import Container

NETWORK = "{default_pytest_celery_network.name}"
DATABASE = {"POSTGRES_USER": "signalq", "POSTGRES_PASSWORD": "signalq", "POSTGRES_DB": "signalq"}
ENVIRONMENT = {"DATABASE_URL": "{database_url}", "EMAIL_URL": "console:"}

image = build(path=str(ROOT), tag="signalq-smoke")
postgres = container(image="postgres:17", user="postgres", environment=DATABASE, network=NETWORK)
celery_backend_cluster = no_backend()
celery_worker = worker_of_default_container
default_worker_container = worker_container("worker", image="{image.id}", environment=ENVIRONMENT)
relay = relay_container(
    image="{image.id}", command=["python", "project/manage.py", "signalq", "relay"], environment=ENVIRONMENT
)


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    with warnings.catch_warnings():
        # docker-py leaves a socket open where nobody listens.
        warnings.simplefilter("ignore", ResourceWarning)
        trouble = _trouble()
        gc.collect()
    if trouble:
        pytest.skip(f"no Docker engine can be reached: {trouble}")


def _trouble() -> str:
    try:
        docker.from_env().close()  # it has asked for the engine's version
    except docker.errors.DockerException as error:
        return str(error)
    return ""


@pytest.fixture
def default_redis_broker_image() -> str:
    """The one of docker-compose.yml."""
    return "redis:8"


@pytest.fixture
def celery_broker(celery_redis_broker: CeleryTestBroker) -> CeleryTestBroker:
    return celery_redis_broker


@pytest.fixture
def database_url(docker_client: docker.DockerClient, image: Image, postgres: Container) -> str:
    """Of a database with the project's tables."""
    # Over TCP: what an image's first start sets up with listens on a socket alone.
    wait_for(lambda: postgres.exec_run("pg_isready --host=127.0.0.1")[0] == 0, "PostgreSQL to accept connections")
    url = f"postgresql://signalq:signalq@{postgres.ips.primary}:5432/signalq"
    command, (network,) = ["python", "project/manage.py", "migrate"], postgres.attrs["NetworkSettings"]["Networks"]
    docker_client.containers.run(image.id, command, environment={"DATABASE_URL": url}, network=network, remove=True)
    return url

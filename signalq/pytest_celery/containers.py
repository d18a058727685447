"""The same in containers of the project's own image, through pytest-docker-tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pytest_celery import CeleryTestContainer, CeleryWorkerContainer
from pytest_docker_tools import container
from pytest_docker_tools.templates import resolve_fixtures_in_params

from .components import READY_WITHIN, RELAY_READY
from .fixtures import broker_environment

NETWORK = "{default_pytest_celery_network.name}"
"""The one that pytest-celery's own containers share."""


class RelayContainer(CeleryTestContainer):
    """A ``manage.py signalq relay`` in a container."""

    @property
    def ready_prompt(self) -> str:
        """The relay's own."""
        return RELAY_READY


def worker_container(
    app: str,
    *,
    image: str,
    queues: Sequence[str] = (),
    concurrency: int = 2,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """For ``default_worker_container``, of which pytest-celery makes ``celery_worker``: ``celery -A app worker``.

    ``image`` is the project's, with Celery and signalq installed; ``environment`` is over the image's own, and says
    where the database is. Strings may name fixtures, as everywhere in pytest-docker-tools: ``"{image.id}"``. What
    else there is goes to its ``container``.
    """

    class Worker(CeleryWorkerContainer):
        """Known by the queue that it consumes."""

        @classmethod
        def worker_queue(cls) -> str:
            return queues[0] if queues else "celery"

    command = ["celery", "-A", app, "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
    command += ["--hostname", f"{Worker.worker_name()}@%h", f"--concurrency={concurrency}"]
    command += ["--queues", ",".join(queues)] if queues else []
    return _container(image, [*command, *arguments], Worker, environment, options)


def relay_container(
    *,
    image: str,
    command: Sequence[str] = ("python", "manage.py", "signalq", "relay"),
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """For any name: a relay in a container, a RelayContainer; the rest as for a worker."""
    return _container(image, command, RelayContainer, environment, options)


def _container(
    image: str,
    command: Sequence[str],
    wrapper_class: type[CeleryTestContainer],
    environment: Mapping[str, str] | None,
    options: Mapping[str, Any],
) -> Any:
    defaults = {"network": NETWORK, "timeout": int(READY_WITHIN)}
    return container(
        image=image,
        command=list(command),
        environment=_environment(environment or {}),
        wrapper_class=wrapper_class,
        **{**defaults, **options},
    )


def _environment(given: Mapping[str, str]) -> Callable[..., dict[str, str]]:
    def environment(request: pytest.FixtureRequest, celery_worker_cluster_config: dict[str, Any]) -> dict[str, str]:
        asked = resolve_fixtures_in_params(request, dict(given))  # type: ignore[no-untyped-call]
        return {"PYTHONUNBUFFERED": "1", **broker_environment(celery_worker_cluster_config, "urls"), **asked}

    return environment

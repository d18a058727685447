"""pytest-celery's clusters, each of one local process. There is no result backend: the outbox has the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import celery
import pytest
from pytest_celery import CeleryBrokerCluster, CeleryTestBroker, CeleryTestWorker, CeleryWorkerCluster

from tests.smoke.local import LocalBroker, LocalContainer, LocalWorker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.harness import Site


@pytest.fixture(autouse=True)
def current_app() -> Iterator[None]:
    """pytest-celery makes its app this thread's current one, here and at each restart of a worker, and leaves it so."""
    before = celery.current_app._get_current_object()
    yield
    before.set_current()


@pytest.fixture
def celery_broker_cluster(broker: str) -> Iterator[CeleryBrokerCluster]:
    cluster = CeleryBrokerCluster(CeleryTestBroker(LocalBroker(broker)))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """None."""


@pytest.fixture
def celery_worker_cluster(
    current_app: None, site: Site, celery_setup_app: celery.Celery
) -> Iterator[CeleryWorkerCluster]:
    container = LocalContainer("worker", site.worker)
    cluster = CeleryWorkerCluster(CeleryTestWorker(LocalWorker(container), celery_setup_app))
    yield cluster
    cluster.teardown()

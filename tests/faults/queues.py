"""The broker as the tests see it, without Celery: how much waits, and what may be done to it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import amqp
import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE = "celery"
PATIENCE = 20.0
"""Seconds that RabbitMQ has to welcome us."""


def client(broker: str) -> redis.Redis:
    """A client of the Redis behind Celery's url."""
    parts = urlsplit(broker)
    if parts.scheme == "redis+socket":
        return redis.Redis(unix_socket_path=unquote(parts.path))
    return redis.Redis.from_url(broker)


@contextlib.contextmanager
def channel(broker: str) -> Iterator[Any]:
    """A channel to the RabbitMQ behind Celery's url."""
    parts = urlsplit(broker)
    host = f"{parts.hostname}:{parts.port or 5672}"
    connection = amqp.Connection(
        host, parts.username, parts.password, virtual_host=unquote(parts.path[1:]), connect_timeout=PATIENCE
    )
    with contextlib.suppress(TimeoutError):  # a node that has just been thawed or relieved may forget a newcomer
        connection.connect()
    with connection:  # connects again if it is not yet
        yield connection.channel()


def depth(broker: str, queue: str = QUEUE) -> int:
    """Messages that wait in `queue`; 0 where there is none."""
    if broker.startswith("amqp"):
        with channel(broker) as opened, contextlib.suppress(amqp.exceptions.NotFound):
            return int(opened.queue_declare(queue, passive=True).message_count)
        return 0
    with client(broker) as opened:
        return int(opened.llen(queue))  # type: ignore[arg-type]


def purge(broker: str, queue: str = QUEUE) -> None:
    """What `celery purge` does."""
    if broker.startswith("amqp"):
        with channel(broker) as opened, contextlib.suppress(amqp.exceptions.NotFound):
            opened.queue_purge(queue)
        return
    with client(broker) as opened:
        opened.delete(queue)


def publish(broker: str, body: bytes, queue: str = QUEUE, **properties: Any) -> None:
    """One message, as anybody may write it who can reach the broker."""
    if broker.startswith("amqp"):
        with channel(broker) as opened:
            opened.basic_publish(amqp.Message(body, **properties), routing_key=queue)
        return
    with client(broker) as opened:
        opened.lpush(queue, body)

"""What goes over the wire: messages, and the connection that publishes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import celery
from celery.loaders.default import Loader as DefaultLoader
from django.core.signing import Signer

from . import conf
from .exceptions import CeleryAppMissing

QUEUE_ATTRIBUTE = "signalq_queue"
"""Where a receiver's task holds its ``queue`` option; without one, task_routes decide."""
SIGNING_SALT = "signalq.transient"

# A broker that refuses, hangs or vanishes must cost seconds at most: kombu's defaults wait for minutes or for ever.
_TRANSPORT_OPTIONS: dict[str, dict[str, Any]] = {
    "redis": {"max_retries": 0, "socket_connect_timeout": 1, "socket_timeout": 1},
    # Without confirms RabbitMQ says OK and loses under a memory alarm, when frozen, or over its message size.
    "amqp": {
        "max_retries": 0,
        "confirm_publish": True,
        "confirm_timeout": 2,
        "read_timeout": 2,
        "write_timeout": 2,
    },
}


@dataclass(frozen=True, slots=True)
class Wake:
    """A durable delivery that is queued: tell a worker."""

    using: str
    receiver: str
    id: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A transient delivery: the event itself."""

    receiver: str
    event_id: str
    payload: str
    countdown: float
    expires: float | None = None


Item = Wake | Message


_app: Any = None


def celery_app() -> Any:
    """The Celery app that this process has loaded.

    Raises CeleryAppMissing when there is none: Celery would make one up, with a broker of its own choice.
    """
    global _app
    # Celery's current app is one a thread: a thread of the web server sees only the made-up one. So the first thread
    # that sees a real one (AppConfig.ready, as a rule) keeps it for the others.
    current: Any = celery.current_app
    current = current._get_current_object()
    if not (current.main == "default" and type(current.loader) is DefaultLoader):
        _app = current
    if _app is None:
        raise CeleryAppMissing(
            "No Celery app is loaded in this process. Import yours where Django starts, as Celery's documentation has "
            "it: in the project's __init__.py, 'from .celery import app as celery_app'."
        )
    return _app


def signer() -> Signer:
    """Signs transient messages with SECRET_KEY, and accepts SECRET_KEY_FALLBACKS."""
    return Signer(salt=SIGNING_SALT)


class Channel:
    """A connection to the broker, made for publishing: short timeouts, confirms, nothing taken for granted."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._producer: Any = None

    def send(self, items: Iterable[Item]) -> None:
        """Publish ``items``. Any exception means that some may not have arrived."""
        app = celery_app()
        for name, arguments, options in _messages(items):
            task = app.tasks[name]
            task.apply_async(
                arguments,
                producer=self._ready(app),
                retry=False,
                argsrepr="...",
                kwargsrepr="{}",
                **_queue(task),
                **options,
            )

    def queue(self, receiver: str) -> str:
        """The name of the queue that messages to ``receiver`` go to."""
        app = celery_app()
        route = app.amqp.router.route(_queue(app.tasks[receiver]), receiver)
        return str(getattr(route.get("queue"), "name", None) or app.conf.task_default_queue)

    def depth(self, queue: str) -> int:
        """Messages that wait in ``queue``."""
        producer = self._ready(celery_app())
        try:
            return int(producer.channel.queue_declare(queue=queue, passive=True).message_count)
        except producer.connection.channel_errors:
            self.close()  # AMQP closes the channel with this answer: the queue does not exist.
            return 0

    def close(self) -> None:
        """Drop the connection; the next use makes a new one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()

    def _ready(self, app: Any) -> Any:
        if self._producer is None:
            connection = app.connection_for_write()
            ours = _TRANSPORT_OPTIONS.get(connection.transport.driver_type, {})
            options = {**(connection.transport_options or {}), **ours}
            self._connection = connection.clone(transport_options=options, connect_timeout=1)
            self._producer = app.amqp.Producer(self._connection, auto_declare=False)
        return self._producer


def _queue(task: Any) -> dict[str, str]:
    queue = getattr(task, QUEUE_ATTRIBUTE, None)
    return {"queue": queue} if queue else {}


def _messages(items: Iterable[Item]) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Task name, arguments and options of each message: the wakes of a receiver share one, up to CHUNK."""
    size = max(conf.current().CHUNK, 1)
    together: dict[tuple[str, str], list[int]] = {}
    # A queue that was deleted says OK even with confirms: only mandatory makes RabbitMQ complain.
    options: dict[str, Any] = {"mandatory": True}
    for item in items:
        if isinstance(item, Message):
            signed = signer().sign(f"{item.receiver}\n{item.payload}")
            times = {"countdown": item.countdown or None, "expires": item.expires}
            yield item.receiver, (signed,), {**options, **times, "task_id": item.event_id}
        elif item.alone:
            yield item.receiver, (item.using, [item.id]), {**options, "ignore_result": True}
        else:
            together.setdefault((item.receiver, item.using), []).append(item.id)
    for (receiver, using), ids in together.items():
        for start in range(0, len(ids), size):
            yield receiver, (using, ids[start : start + size]), {**options, "ignore_result": True}

"""What goes over the wire: messages, and the connection that publishes them."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import celery
from celery.loaders.default import Loader as DefaultLoader
from django.core.signing import Signer

from . import conf
from .event import delivery_id
from .exceptions import CeleryAppMissing

QUEUE_ATTRIBUTE = "signalq_queue"
"""Where a receiver's task holds its ``queue`` option; without one, task_routes decide."""
SIGNING_SALT = "signalq.transient"
HEADER = "signalq"
"""A header of transient messages, by which a worker knows them that does not know their receiver."""

MESSAGES_TOGETHER = 100
"""In one round trip, at the most: a transient one may have 64 KiB."""

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
    recorded_at: float = field(default_factory=time.time)
    """What ``expires`` counts from: as for a durable one, the moment just before the commit."""

    @property
    def task_id(self) -> str:
        """One for each event and receiver, under which Celery stores its result; no save waits for its hash."""
        return str(delivery_id(uuid.UUID(self.event_id), self.receiver))


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


def seal(message: Message) -> str:
    """What a transient message holds: receiver, moment and event under one signature.

    The moment has to be in it: Celery's own ``expires`` is a header, which whoever repeats a message may change.
    """
    return signer().sign(f"{message.receiver}\n{message.recorded_at:.3f}\n{message.payload}")


def unseal(sealed: str) -> tuple[str, float, str]:
    """Receiver, moment and event of what ``seal`` made. Raises BadSignature; ValueError if it was signed elsewhere."""
    receiver, recorded_at, payload = signer().unsign(sealed).split("\n", 2)
    return receiver, float(recorded_at), payload


class Channel:
    """A connection to the broker, made for publishing: short timeouts, confirms, nothing taken for granted."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._producer: Any = None

    def send(self, items: Iterable[Item], queue: str = "") -> None:
        """Publish ``items``, to ``queue`` if it is named. Any exception means that some may not have arrived."""
        app, messages = celery_app(), list(_messages(items))
        producer = self._ready(app)
        with _together(producer, len(messages)):
            for name, arguments, options in messages:
                task = app.tasks[name]
                task.apply_async(
                    arguments,
                    producer=producer,
                    retry=False,
                    argsrepr="...",
                    kwargsrepr="{}",
                    **({"queue": queue} if queue else _queue(task)),
                    **options,
                )

    def queue(self, receiver: str) -> str:
        """The name of the queue that messages to ``receiver`` go to."""
        app = celery_app()
        route = app.amqp.router.route(_queue(app.tasks[receiver]), receiver)
        return str(getattr(route.get("queue"), "name", None) or app.conf.task_default_queue)

    def depth(self, queue: str) -> int:
        """Messages that wait in ``queue``."""
        return self.look(queue)[0]

    def look(self, queue: str) -> tuple[int, int | None]:
        """Messages that wait in ``queue``, and how many consume it: None where the broker does not know."""
        producer = self._ready(celery_app())
        is_amqp = producer.connection.transport.driver_type == "amqp"
        try:
            found = producer.channel.queue_declare(queue=queue, passive=True)
        except producer.connection.channel_errors:
            # The queue does not exist; on Redis none does that is empty.
            if is_amqp:
                self.close()  # AMQP closes the channel with this answer.
            return 0, 0 if is_amqp else None
        return int(found.message_count), int(found.consumer_count) if is_amqp else None

    def address(self) -> str:
        """Where the broker is, without a password."""
        return str(self._ready(celery_app()).connection.as_uri())

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


def _together(producer: Any, number: int) -> AbstractContextManager[Any]:
    """Several messages in one round trip, where kombu (from 5.7) and its transport know how."""
    if number > 1 and hasattr(producer, "batch"):
        batch: AbstractContextManager[Any] = producer.batch(max_size=MESSAGES_TOGETHER)
        return batch
    return contextlib.nullcontext()


def _queue(task: Any) -> dict[str, str]:
    queue = getattr(task, QUEUE_ATTRIBUTE, None)
    return {"queue": queue} if queue else {}


def _times(item: Message) -> dict[str, Any]:
    # Celery counts from now, and the message may have waited here for the broker.
    left = None if item.expires is None else max(item.recorded_at + item.expires - time.time(), 0)
    return {"countdown": item.countdown or None, "expires": left, "headers": {HEADER: "transient"}}


def _messages(items: Iterable[Item]) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Task name, arguments and options of each message: the wakes of a receiver share one, up to CHUNK."""
    size = max(conf.current().CHUNK, 1)
    together: dict[tuple[str, str], list[int]] = {}
    # A queue that was deleted says OK even with confirms: only mandatory makes RabbitMQ complain.
    options: dict[str, Any] = {"mandatory": True}
    for item in items:
        if isinstance(item, Message):
            yield item.receiver, (seal(item),), {**options, **_times(item), "task_id": item.task_id}
        elif item.alone:
            yield item.receiver, (item.using, [item.id]), {**options, "ignore_result": True}
        else:
            together.setdefault((item.receiver, item.using), []).append(item.id)
    for (receiver, using), ids in together.items():
        for start in range(0, len(ids), size):
            yield receiver, (using, ids[start : start + size]), {**options, "ignore_result": True}

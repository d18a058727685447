"""4 publish: row numbers go to the broker, off the request's path.

One daemon thread a process sends what the commits hand over, in chunks, over a connection of its own with short
timeouts. What it cannot send durably it forgets: the row is there, and the relay finds it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import celery
from celery.loaders.default import Loader as DefaultLoader
from django.core.signing import Signer

from . import conf
from .exceptions import CeleryAppMissing

logger = logging.getLogger("signalq.publish")

QUEUE_SIZE = 10_000
LINGER = 0.005
"""Seconds between two messages of a busy process: saves in a row share one, and the thread does not vie with them."""
FLUSH_AT_EXIT = 1.0
"""Seconds that a process which ends spends on what is still to be sent."""
RETRY_FIRST, RETRY_MAX = 1.0, 30.0
"""Seconds for which the broker is left alone after a failure; doubled with each further one."""
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


class Publisher:
    """The thread, its queue and its circuit breaker. Never blocks and never raises in the sender's process."""

    def __init__(self) -> None:
        self._abandoned: list[Channel] = []
        self._start_over()

    def _start_over(self) -> None:
        self._items: queue.Queue[list[Item] | None] = queue.Queue(QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._channel = Channel()
        self._closed_until = 0.0
        self._retry_in = RETRY_FIRST
        self._paused = False
        self._sent_at = float("-inf")

    def before_fork(self) -> None:
        """Let the thread finish what it sends: a lock that it holds inside Celery would stay locked in the child."""
        self._paused = self._sending.acquire(timeout=FLUSH_AT_EXIT)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._paused:
            self._sending.release()

    def after_fork(self) -> None:
        """In the child: begin anew. The parent's connection is kept, unused: closing it would close it there too."""
        self._abandoned.append(self._channel)
        self._start_over()

    def put(self, items: list[Item]) -> None:
        """Hand over ``items``; returns at once."""
        try:
            self._items.put_nowait(items)
            if self._thread is None:
                self._start()
        except queue.Full:
            _forget(items, "the publisher's queue is full")
        except RuntimeError as error:  # no thread can be started while the interpreter ends
            _forget(items, str(error))

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="signalq-publisher", daemon=True)
                self._thread.start()

    def flush(self, timeout: float) -> None:
        """Wait until what was handed over is sent, for ``timeout`` seconds at the most."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._items.put_nowait(None)
                thread.join(timeout)

    def _run(self) -> None:
        while (items := self._items.get()) is not None:
            items = list(items)
            ended = False
            if time.monotonic() - self._sent_at < LINGER:
                # Busy: let what is being committed now come along. Idle, nothing waits.
                time.sleep(LINGER)
            with contextlib.suppress(queue.Empty):
                while len(items) < QUEUE_SIZE and not ended:
                    more = self._items.get_nowait()
                    ended = more is None
                    items.extend(more or ())
            self._send(items)
            self._sent_at = time.monotonic()
            if ended:
                break
        self._thread = None
        self._channel.close()

    def _send(self, items: list[Item]) -> None:
        """Send, or wait out the breaker for the transient ones among ``items``, which have no row."""
        while items:
            wait = self._closed_until - time.monotonic()
            if wait > 0:
                items = [item for item in items if isinstance(item, Message)]
                if not items:
                    return
                time.sleep(wait)
            try:
                with self._sending:
                    self._channel.send(items)
            except CeleryAppMissing as error:
                _forget(items, str(error))
                return
            except Exception as error:  # noqa: BLE001 - whatever the transport raises, the rows are there
                self._open_breaker(error)
            else:
                self._close_breaker()
                return

    def _open_breaker(self, error: Exception) -> None:
        self._channel.close()
        self._closed_until = time.monotonic() + self._retry_in
        logger.warning(
            "The broker cannot be reached (%s: %s). Next try in %.0f s; the relay publishes what is recorded.",
            type(error).__name__,
            error,
            self._retry_in,
        )
        self._retry_in = min(self._retry_in * 2, RETRY_MAX)

    def _close_breaker(self) -> None:
        if self._retry_in > RETRY_FIRST:
            logger.info("The broker is back.")
        self._closed_until, self._retry_in = 0.0, RETRY_FIRST


def _forget(items: list[Item], reason: str) -> None:
    transient = sum(isinstance(item, Message) for item in items)
    if durable := len(items) - transient:
        logger.error(
            "%d deliveries were not published: %s They are recorded, and a relay publishes them.", durable, reason
        )
    if transient:
        logger.error("%d transient deliveries are lost: %s", transient, reason)


publisher = Publisher()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=publisher.before_fork,
        after_in_parent=publisher.after_fork_in_parent,
        after_in_child=publisher.after_fork,
    )
atexit.register(publisher.flush, FLUSH_AT_EXIT)


def send(items: list[Item]) -> None:
    """Publish ``items`` in the background. Called right after a commit, so it must not raise."""
    if items and conf.current().PUBLISH:
        publisher.put(items)

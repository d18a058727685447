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

from . import conf, signals
from .exceptions import CeleryAppMissing
from .wire import Channel, Item, Message

logger = logging.getLogger("signalq.publish")

QUEUE_SIZE = 10_000
LINGER = 0.005
"""Seconds between two messages of a busy process: saves in a row share one, and the thread does not vie with them."""
FLUSH_AT_EXIT = 1.0
"""Seconds that a process which ends spends on what is still to be sent."""
RETRY_FIRST, RETRY_MAX = 1.0, 30.0
"""Seconds for which the broker is left alone after a failure; doubled with each further one."""


class Publisher:
    """The thread, its queue and its circuit breaker. Never blocks and never raises in the sender's process."""

    def __init__(self) -> None:
        self._abandoned: list[Channel] = []
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
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

    def _see_who_we_are(self) -> None:
        """Not every fork tells: uWSGI's runs none of Python's hooks, and the parent's thread is not here."""
        if self._pid != os.getpid():
            with _forked:
                if self._pid != os.getpid():
                    self.after_fork()

    def put(self, items: list[Item]) -> None:
        """Hand over ``items``; returns at once."""
        self._see_who_we_are()
        try:
            self._items.put_nowait(items)
            if self._thread is None:
                self._start()
        except queue.Full:
            _forget(items, "the publisher's queue is full")
        except RuntimeError as error:  # no thread can be started while the interpreter ends
            _forget(items, str(error))

    @property
    def retry_in(self) -> float | None:
        """Seconds for which the breaker still keeps this process from the broker; None while it is closed."""
        return max(self._closed_until - time.monotonic(), 0.0) if self._closed_until else None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                _warn_without_threads()
                self._thread = threading.Thread(target=self._run, name="signalq-publisher", daemon=True)
                self._thread.start()

    def flush(self, timeout: float) -> None:
        """Wait until what was handed over is sent, for ``timeout`` seconds at the most."""
        self._see_who_we_are()
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
                signals.published(items)
                return

    def _open_breaker(self, error: Exception) -> None:
        self._channel.close()
        self._closed_until = time.monotonic() + self._retry_in
        signals.breaker_changed.send_robust(None, open=True)
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
            signals.breaker_changed.send_robust(None, open=False)
        self._closed_until, self._retry_in = 0.0, RETRY_FIRST


def _forget(items: list[Item], reason: str) -> None:
    transient = sum(isinstance(item, Message) for item in items)
    if durable := len(items) - transient:
        logger.error(
            "%d deliveries were not published: %s They are recorded, and a relay publishes them.", durable, reason
        )
    if transient:
        logger.error("%d transient deliveries are lost: %s", transient, reason)


def _warn_without_threads() -> None:
    try:
        import uwsgi  # type: ignore[import-untyped]  # there is one inside uWSGI only
    except ImportError:
        return
    if not ("enable-threads" in uwsgi.opt or "threads" in uwsgi.opt):
        logger.warning(
            "uWSGI runs without --enable-threads, so that no thread runs between two requests: deliveries are "
            "published late, by the next request or by a relay. Put enable-threads = true into uWSGI's configuration."
        )


_forked = threading.Lock()
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

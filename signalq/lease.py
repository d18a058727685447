"""The lease of claimed deliveries: kept alive under long handlers, handed back for what is not begun."""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from django.db import connections

from . import conf, publish, wire
from .outcomes import again_on_conflict

if TYPE_CHECKING:
    from .models import Delivery

logger = logging.getLogger("signalq.lease")

CHUNK_SECONDS = 1.0
"""What a chunk has not begun after this long goes back to the queue, for whoever is free."""


NOTICE_SECONDS = 0.5
"""Until the heart notices that the worker is to stop, at the most."""
DEAF_SECONDS = 2.0
"""Until a worker that is to stop takes no more messages: what it is told before, nobody else hears."""


class _Stopping:
    """Whether the worker was told to stop. One byte that its forked children share: they get no signal of it."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def clear(self) -> None:
        self._byte[0] = 0

    def is_set(self) -> bool:
        return bool(self._byte[0])


stopping = _Stopping()


class Lease:
    """The deliveries of one claim, to be taken and run one after another, or a few at a time."""

    def __init__(self, using: str, deliveries: list[Delivery]) -> None:
        self.using = using
        self._waiting = deque(deliveries)
        self._came_alone = len(deliveries) == 1
        self._current: list[Delivery] = []
        self._lock = threading.Lock()
        self._claimed_at = self._renewed_at = time.monotonic()
        self._told_at = 0.0

    def __enter__(self) -> Lease:
        _heart.watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _heart.forget(self)
        self._hand_back()

    def take(self, number: int) -> list[Delivery]:
        """The next to run, up to ``number``; none when all are run or it is time to leave the rest to others."""
        with self._lock:
            late = bool(self._current) and time.monotonic() - self._claimed_at > CHUNK_SECONDS
            count = 0 if late or stopping.is_set() else min(number, len(self._waiting))
            self._current = [self._waiting.popleft() for _ in range(count)]
            return self._current

    def _hand_back(self) -> None:
        with self._lock:
            rest, self._waiting = list(self._waiting), deque()
        if rest:
            from .models import Delivery

            again_on_conflict(lambda: Delivery.objects.using(self.using).hand_back(rest))
            publish.send([wire.Wake(self.using, delivery.receiver, delivery.pk, self._came_alone) for delivery in rest])

    def beat(self, lease: float) -> None:
        """Renew the running delivery when a third of ``lease`` (seconds) has passed, and free those behind it.

        When the worker is to stop, those behind it are free soon: it may be killed before the running one is done.
        """
        if stopping.is_set():
            self._told_at = self._told_at or time.monotonic()
            if time.monotonic() - self._told_at >= DEAF_SECONDS:
                self._hand_back()
        if time.monotonic() - self._renewed_at < lease / 3:
            return
        from .models import Delivery

        self._hand_back()
        with self._lock:
            current = self._current
        if current:
            again_on_conflict(lambda: Delivery.objects.using(self.using).renew(current, lease))
        self._renewed_at = time.monotonic()


class _Heart:
    """One thread a process, started with the first lease; it touches a database only for a long handler."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="signalq-heartbeat", daemon=True)
                self._thread.start()

    def forget(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            seconds = conf.current().LEASE
            time.sleep(min(max(seconds / 6, 0.05), NOTICE_SECONDS))
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                try:
                    lease.beat(seconds)
                except Exception:
                    logger.exception("A lease could not be renewed; its delivery may run again elsewhere.")
            if leases:
                # This thread's own connections, if a beat opened any.
                connections.close_all()


_heart = _Heart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_heart.start_over)

"""The lease of claimed deliveries: kept alive under long handlers, handed back for what is not begun."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from django.db import connections

from . import conf, publish, wire

if TYPE_CHECKING:
    from .models import Delivery

logger = logging.getLogger("signalq.lease")

CHUNK_SECONDS = 1.0
"""What a chunk has not begun after this long goes back to the queue, for whoever is free."""


class Lease:
    """The deliveries of one claim, to be taken and run one after another, or a few at a time."""

    def __init__(self, using: str, deliveries: list[Delivery]) -> None:
        self.using = using
        self._waiting = deque(deliveries)
        self._current: list[Delivery] = []
        self._lock = threading.Lock()
        self._claimed_at = self._renewed_at = time.monotonic()

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
            count = 0 if late else min(number, len(self._waiting))
            self._current = [self._waiting.popleft() for _ in range(count)]
            return self._current

    def _hand_back(self) -> None:
        with self._lock:
            rest, self._waiting = list(self._waiting), deque()
        if rest:
            from .models import Delivery

            Delivery.objects.using(self.using).hand_back(rest)
            publish.send([wire.Wake(self.using, delivery.receiver, delivery.pk, False) for delivery in rest])

    def beat(self, lease: float) -> None:
        """Renew the running delivery when a third of ``lease`` (seconds) has passed, and free those behind it."""
        if time.monotonic() - self._renewed_at < lease / 3:
            return
        from .models import Delivery

        self._hand_back()
        with self._lock:
            current = self._current
        if current:
            Delivery.objects.using(self.using).renew(current, lease)
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
            time.sleep(max(seconds / 6, 0.05))
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

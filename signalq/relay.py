"""4b the relay: queues what has come due, and publishes again what was not claimed.

Each round has three phases, with no broker I/O inside a transaction: take a batch and move its due_at on; commit;
publish. Any number of relays may run.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterable

from django.db import DatabaseError, InterfaceError, connections, router

from . import conf, signals, wire
from .models import Delivery
from .outcomes import again_on_conflict
from .queryset import REPEAT_MAX, Due, State
from .receivers import registry

logger = logging.getLogger("signalq.relay")

BATCH = 1_000
"""Rows taken in one transaction: a batch of 2,000 was no faster."""
BATCHES = 100
"""Batches of one database in one round, before the next database has its turn."""
POLL = 1.0
"""Seconds between two looks at an outbox that had nothing due."""
PRUNE_EVERY = 60.0
PRUNE_BATCH = 1_000
BROKER = "the broker"
ALIASES_EVERY = 60.0
"""Seconds between two looks at which databases have an outbox."""


class Relay:
    """A sweeper of the outbox in each database that has one."""

    def __init__(self, aliases: Iterable[str] | None = None) -> None:
        self._only = list(aliases) if aliases is not None else None
        self._aliases: list[str] = []
        self._aliases_at = self._pruned_at = float("-inf")
        self._channel = wire.Channel()
        self._ill: set[str] = set()
        self._probed_at: dict[str, float] = {}

    def run(self, stop: threading.Event, parent: int | None = None) -> None:
        """Sweep until ``stop`` is set, or until this process is no longer the child of process ``parent``."""
        while not stop.is_set() and (parent is None or os.getppid() == parent):
            self.round()
            # Apart by chance, so that several relays do not look at the same moment.
            stop.wait(POLL * random.uniform(0.8, 1.2))  # noqa: S311

    def round(self) -> None:
        """One look at each outbox: whatever is due is taken and published."""
        for using in self._databases():
            try:
                self.sweep(using)
                self._healthy(using)
            except (DatabaseError, InterfaceError) as error:
                self._unhealthy(using, error)
        self._prune()

    def sweep(self, using: str) -> int:
        """Take what is due on ``using`` and publish it; how many rows that were."""
        # Only receivers of this process: those of a newer deployment are left to its own relays.
        names = list(registry)
        outbox = Delivery.objects.using(using)
        if not outbox.due(names).exists():
            return 0
        backlog = self._backlog() if conf.current().PUBLISH else set()
        if backlog is None:
            return 0
        total = 0
        for _ in range(BATCHES):
            due = again_on_conflict(lambda: outbox.take_due(names, BATCH))
            self._publish(using, due, backlog)
            total += len(due)
            if len(due) < BATCH:
                break
        return total

    def _backlog(self) -> set[str] | None:
        """The receivers whose queues hold messages now, before this relay adds any; None if the broker is away.

        While it is away nothing is taken: what is due stays due, and none of it pays for the wait.
        """
        try:
            queues = {name: self._channel.queue(name) for name in registry}
            depths = {queue: self._channel.depth(queue) for queue in set(queues.values())}
            return {name for name, queue in queues.items() if depths[queue]}
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, the rows stay due
            self._channel.close()
            if BROKER not in self._ill:
                self._ill.add(BROKER)
                logger.warning("The broker cannot be reached: %s: %s", type(error).__name__, error)
            return None

    def _publish(self, using: str, due: list[Due], backlog: set[str]) -> None:
        for row in due:
            if row.is_dead:
                signals.counts["dead"] += 1
                logger.error("%s #%s is dead: it lost its lease too often", row.receiver, row.id)
        if not due or not conf.current().PUBLISH:
            return
        try:
            ready = [row for row in due if not row.is_dead and not _is_held(row, backlog)]
            ready += self._probes(row for row in due if _is_held(row, backlog))
            self._channel.send(wire.Wake(using, registry[row.receiver].name, row.id, _alone(row)) for row in ready)
            if BROKER in self._ill:
                self._ill.discard(BROKER)
                logger.info("The broker is back.")
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, the rows come due again
            self._channel.close()
            logger.warning(
                "%d deliveries could not be published and will come due again: %s: %s",
                len(due),
                type(error).__name__,
                error,
            )

    def _probes(self, held: Iterable[Due]) -> list[Due]:
        """Of those held back the oldest few: queues are in order, so that a lost message was one of theirs."""
        now = time.monotonic()
        by_receiver: dict[str, list[Due]] = {}
        for row in held:
            by_receiver.setdefault(row.receiver, []).append(row)
        probes: list[Due] = []
        for receiver, rows in by_receiver.items():
            if now - self._probed_at.get(receiver, float("-inf")) >= conf.current().GRACE:
                self._probed_at[receiver] = now
                probes += sorted(rows)[: conf.current().CHUNK]
        return probes

    def _databases(self) -> list[str]:
        now = time.monotonic()
        if now - self._aliases_at >= ALIASES_EVERY:
            self._aliases_at = now
            candidates = self._only if self._only is not None else list(connections)
            self._aliases = [using for using in candidates if self._has_outbox(using)]
        return self._aliases

    def _has_outbox(self, using: str) -> bool:
        if not router.allow_migrate_model(using, Delivery):
            return False
        try:
            return Delivery._meta.db_table in connections[using].introspection.table_names()
        except (DatabaseError, InterfaceError) as error:
            self._unhealthy(using, error)
            self._aliases_at = time.monotonic() - ALIASES_EVERY + POLL  # look again soon
            return using in self._aliases

    def _prune(self) -> None:
        now = time.monotonic()
        if now - self._pruned_at < PRUNE_EVERY:
            return
        self._pruned_at = now
        for using in self._aliases:
            try:
                retain = conf.current().RETAIN_DONE
                while Delivery.objects.using(using).prune(retain, PRUNE_BATCH) >= PRUNE_BATCH:
                    pass
            except (DatabaseError, InterfaceError) as error:
                self._unhealthy(using, error)

    def _healthy(self, using: str) -> None:
        if using in self._ill:
            self._ill.discard(using)
            logger.info("Database %r answers again.", using)

    def _unhealthy(self, using: str, error: Exception) -> None:
        connections[using].close()
        if using not in self._ill:
            self._ill.add(using)
            logger.warning("Database %r: %s: %s", using, type(error).__name__, error)


def _alone(row: Due) -> bool:
    """What was attempted before travels alone: it may be what killed its worker."""
    return row.attempt > 0 or row.state == State.RUNNING or registry[row.receiver].travels_alone


def _is_held(row: Due, backlog: set[str]) -> bool:
    """Messages wait in its queue, so its own is most likely one of them: do not flood, for a while."""
    return row.state == State.QUEUED and row.receiver in backlog and row.age < REPEAT_MAX

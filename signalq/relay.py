"""4b the relay: queues what has come due, and publishes again what was not claimed.

Each batch has three phases, with no broker I/O inside a transaction: take it and move its due_at on; commit; publish.
Any number of relays may run.

What is queued and was not claimed for GRACE has lost its message, or waits for its turn. The queue's depth tells:

- An empty queue has lost them: publish.
- Otherwise they are left alone, and stay due: not a row is written, or read, for all the time that they wait, and the
  first look that finds the queue empty publishes what is left.
- Except for a probe: a queue is in order, so the delivery that came due last is published once more, and when it is
  claimed its predecessors have had their turn. Those that are still queued GRACE later (workers fetch some messages
  ahead) have lost their messages: publish. So a loss is noticed in a queue that is never empty, too.

What is published again in vain comes later and later, up to a minute apart; that counts publications, not time.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import DatabaseError, InterfaceError, connections, router
from django.db.models.functions import Now

from . import conf, signals, wire
from .due import Due
from .event import Outcome, Result
from .exceptions import LeaseLost
from .models import Delivery
from .outcomes import again_on_conflict
from .probe import NAME as PROBE, answer_due
from .receivers import registry
from .settle import tell
from .state import State, in_state

logger = logging.getLogger("signalq.relay")

Lane = tuple[str, State]
"""The deliveries of one receiver in one state."""

BATCH = 1_000
"""Rows taken in one transaction: a batch of 2,000 was no faster."""
BATCHES = 100
"""Batches of one database in one round, before the next database has its turn."""
POLL = 1.0
"""Seconds between two looks at an outbox that had nothing due."""
PRUNE_EVERY = 60.0
PRUNE_BATCH = 1_000
PRUNE_SECONDS = 0.5
"""Of pruning in one round, then what is due has its turn: at 10,000 a second the rows of a minute take ten."""
BROKER = "the broker"
ALIASES_EVERY = 60.0
"""Seconds between two looks at which databases have an outbox."""


@dataclass
class Probe:
    """The delivery that had come due last of a receiver whose queue is busy."""

    row: Due
    due_at: datetime
    claimed: float | None = None
    """When we saw that it was."""


class Relay:
    """A sweeper of the outbox in each database that has one."""

    def __init__(self, aliases: Iterable[str] | None = None) -> None:
        self._only = list(aliases) if aliases is not None else None
        self._aliases: list[str] = []
        self._aliases_at = self._pruned_at = float("-inf")
        self._channel = wire.Channel()
        self._ill: set[str] = set()
        self._probes: dict[tuple[str, str], Probe] = {}
        self._unfinished: dict[str, list[Lane]] = {}
        self._pruning = False
        """The last round has left old rows, for the next to go on with at once."""

    def run(self, stop: threading.Event, parent: int | None = None) -> None:
        """Sweep until ``stop`` is set, or until this process is no longer the child of process ``parent``."""
        while not stop.is_set() and (parent is None or os.getppid() == parent):
            self.round()
            if not self._pruning:
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
        signals.relay_swept.send_robust(None)

    def sweep(self, using: str) -> int:
        """Take what is due on ``using`` and publish it; how many rows that were."""
        # Only receivers of this process: those of a newer deployment are left to its own relays.
        due = Delivery.objects.using(using).lanes_due([*registry, PROBE])
        if not due:
            return 0
        depths = self._depths(name for name, _ in due) if conf.current().PUBLISH else {}
        if depths is None:
            return 0
        if any(name == PROBE for name, _ in due):
            answer_due(using)
            due = [(name, state) for name, state in due if name != PROBE]
        busy = {name for name, state in due if state == State.QUEUED and depths.get(name)}
        busy -= {name for name, state in self._unfinished.get(using, []) if state == State.QUEUED}
        lanes = [(name, state) for name, state in due if state != State.QUEUED or name not in busy]
        for name, _ in lanes:
            self._probes.pop((using, name), None)
        total, self._unfinished[using] = self._take(using, lanes)
        return total + sum(self._look_behind(using, name) for name in sorted(busy))

    def _take(self, using: str, lanes: list[Lane], until: datetime | None = None) -> tuple[int, list[Lane]]:
        """Take and publish batch after batch, of each lane in turn; how many, and the lanes that hold more.

        There is an end, so that other databases have their turn.
        """
        outbox = Delivery.objects.using(using)
        total, left = 0, BATCHES
        while lanes and left > 0:
            full = []
            for name, state in lanes:
                due = again_on_conflict(lambda name=name, state=state: outbox.take_due(name, state, BATCH, until))  # type: ignore[misc]
                self._publish(using, due)
                self._tell_dead(using, due)
                total += len(due)
                left -= 1
                if len(due) == BATCH:
                    full.append((name, state))
            lanes = full
        return total, lanes

    def _look_behind(self, using: str, name: str) -> int:
        """See by a probe whether anything is lost of a receiver whose queue is busy; how many were published."""
        outbox, probe = Delivery.objects.using(using), self._probes.get((using, name))
        if probe is None:
            return 0 if outbox.is_probed(name) else self._send_probe(using, name)
        if probe.claimed is None:
            queued = outbox.filter(in_state(State.QUEUED), pk=probe.row.id)
            for due_at, now in queued.annotate(now=Now()).values_list("due_at", "now"):
                if due_at and due_at <= now and outbox.move_probe(probe.row.id):
                    self._publish(using, [probe.row])
                return 0
            probe.claimed = time.monotonic()
        if time.monotonic() - probe.claimed < conf.current().GRACE:
            return 0
        total, more = self._take(using, [(name, State.QUEUED)], probe.due_at)
        if not more:
            del self._probes[using, name]
        return total

    def _send_probe(self, using: str, name: str) -> int:
        taken = again_on_conflict(lambda: Delivery.objects.using(using).take_probe(name))
        if taken is None:
            return 0
        self._probes[using, name] = Probe(*taken)
        self._publish(using, [taken[0]])
        return 1

    def _depths(self, names: Iterable[str]) -> dict[str, int] | None:
        """The messages in the queue of each of ``names`` before this relay adds any; None without a broker.

        While it is away nothing is taken: what is due stays due, and none of it pays for the wait.
        """
        try:
            queues = {name: self._channel.queue(name) for name in names}
            depths = {queue: self._channel.depth(queue) for queue in set(queues.values())}
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, the rows stay due
            self._channel.close()
            if BROKER not in self._ill:
                self._ill.add(BROKER)
                logger.warning("The broker cannot be reached: %s: %s", type(error).__name__, error)
            return None
        return {name: depths[queue] for name, queue in queues.items()}

    def _publish(self, using: str, due: list[Due]) -> None:
        ready = [row for row in due if not row.is_dead]
        if not ready or not conf.current().PUBLISH:
            return
        try:
            wakes = [wire.Wake(using, row.receiver, row.id, _alone(row)) for row in ready]
            self._channel.send(wakes)
            signals.published(wakes, again=True)
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

    def _tell_dead(self, using: str, due: list[Due]) -> None:
        if ids := [row.id for row in due if row.is_dead]:
            for delivery in Delivery.objects.using(using).filter(pk__in=ids):
                outcome = Outcome(Result.DEAD, error=LeaseLost(delivery.errors[-1]["message"]))
                tell(registry[delivery.receiver], delivery, outcome, None)

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
        now, self._pruning = time.monotonic(), False
        if now - self._pruned_at < PRUNE_EVERY:
            return
        for using in self._aliases:
            try:
                self._pruning |= self._leaves_old_rows(using)
            except (DatabaseError, InterfaceError) as error:
                self._unhealthy(using, error)
        if not self._pruning:
            self._pruned_at = now

    def _leaves_old_rows(self, using: str) -> bool:
        """Prune for a while, so that what is due and other databases have their turn; whether there is more."""
        outbox, retain = Delivery.objects.using(using), conf.current().RETAIN_DONE
        until = time.monotonic() + PRUNE_SECONDS
        while again_on_conflict(lambda: outbox.prune(retain, PRUNE_BATCH)) >= PRUNE_BATCH:
            if time.monotonic() >= until:
                return True
        return False

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

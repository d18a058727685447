"""What the outboxes hold of each receiver, added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from ..models import Delivery
from ..receivers import AsyncReceiver, registry
from ..state import State
from . import looks
from .looks import Count, Done, Lane

LATELY = timedelta(minutes=1)
"""What rates are of."""
PERCENTILES_OF = 500
"""The newest done deliveries that p50 and p99 are of, at the most."""


@dataclass
class Outbox:
    """What was seen of one outbox."""

    using: str
    now: datetime
    first_due: dict[Lane, datetime | None]
    counts: dict[Lane, Count]
    done: dict[str, list[Done]] = field(default_factory=dict)
    """Of each receiver the newest that were seen."""
    hours: dict[str, Counter[int]] = field(default_factory=dict)
    """Of each receiver, how many were done so many hours ago."""
    lately: Counter[str] = field(default_factory=Counter)
    """Of each receiver, how many were done in the last minute, as far as seen."""
    rate: float = 0.0
    """Deliveries done a second."""

    @property
    def names(self) -> set[str]:
        """Whoever has something here that is not finished, dead or done."""
        return {name for name, _ in self.counts} | set(self.done)


@dataclass
class Tally:
    """What all outboxes hold of one receiver, under all its names."""

    name: str
    receiver: AsyncReceiver[..., Any] | None
    numbers: Counter[State] = field(default_factory=Counter)
    capped: set[str] = field(default_factory=set)
    """Which of the numbers are a lower bound."""
    later: int = 0
    retrying: int = 0
    leases: int = 0
    """Running, and their worker has said so lately."""
    overdue: dict[State, float] = field(default_factory=dict)
    """For how many seconds the first of a state is."""
    done: list[Done] = field(default_factory=list)
    hours: Counter[int] = field(default_factory=Counter)
    lately: int = 0
    aliases: list[str] = field(default_factory=list)
    recorded: tuple[str, str] = ("", "")
    """The signal and sender of one of its deliveries, if nothing here knows it."""

    def add(self, outbox: Outbox, name: str) -> None:
        """What ``outbox`` holds under ``name``."""
        for state in looks.COUNTED:
            if count := outbox.counts.get((name, state)):
                self._add_count(state, count)
                if due := outbox.first_due[name, state]:
                    late = (outbox.now - due).total_seconds()
                    if late > self.overdue.get(state, 0):
                        self.overdue[state] = late
        self.done += outbox.done.get(name, [])
        self.hours += outbox.hours.get(name, Counter())
        self.lately += outbox.lately[name]
        if outbox.using not in self.aliases:
            self.aliases.append(outbox.using)

    def _add_count(self, state: State, count: Count) -> None:
        self.numbers[state] += count.number
        if count.capped:
            self.capped |= {state.value, "later"} if state == State.WAITING else {state.value}
        if state == State.WAITING:
            self.later += count.later
        if state == State.RUNNING:
            self.leases += count.later
        if state in (State.WAITING, State.QUEUED):
            self.retrying += count.retrying
            if count.number > looks.LOOKED_INTO:
                self.capped.add("retrying")

    def percentiles(self) -> tuple[float | None, float | None]:
        """Half, and 99 of 100, of the newest took no more seconds from the commit to done."""
        newest = sorted(self.done, key=lambda done: done.finished_at, reverse=True)[:PERCENTILES_OF]
        times = sorted((done.finished_at - done.created_at).total_seconds() for done in newest)
        if not times:
            return None, None
        return times[math.ceil(len(times) * 0.5) - 1], times[math.ceil(len(times) * 0.99) - 1]


def look(aliases: Iterable[str] | None) -> tuple[list[Outbox], dict[str, str]]:
    """Each outbox, and what was said by the databases that did not answer."""
    found, away = [], {}
    for using in connections if aliases is None else aliases:
        try:
            if looks.has_outbox(using):
                found.append(_look(using))
        except (DatabaseError, InterfaceError) as error:
            connections[using].close()
            away[using] = f"{type(error).__name__}: {error}".strip()
    return found, away


def _look(using: str) -> Outbox:
    names, now = looks.names(using), looks.now(using)
    first_due = looks.earliest(using, names)
    outbox = Outbox(using, now, first_due, looks.counts(using, list(first_due)))
    newest = looks.newest_done(using)
    for done in newest:
        outbox.done.setdefault(done.receiver, []).append(done)
    _look_back(outbox, names)
    outbox.lately = Counter(
        {name: sum(now - each.finished_at < LATELY for each in done) for name, done in outbox.done.items()}
    )
    if newest:
        lately = sum(now - done.finished_at < LATELY for done in newest)
        all_of_it = lately == looks.NEWEST
        seconds = (now - newest[-1].finished_at if all_of_it else LATELY).total_seconds()
        outbox.rate = lately / max(seconds, 0.001)
    return outbox


def _look_back(outbox: Outbox, names: list[str]) -> None:
    """Beyond the newest: whoever has done little is known exactly, of the others there is a sample."""
    few = looks.few_done(outbox.using, [name for name in names if len(outbox.done.get(name, ())) <= looks.FEW])
    sample, weight = looks.sample_done(outbox.using, outbox.now - looks.DAY)
    for done in sample:
        if done.receiver not in few:
            outbox.hours.setdefault(done.receiver, Counter())[_hours_ago(outbox, done)] += weight
            if len(outbox.done.get(done.receiver, ())) <= looks.FEW:
                outbox.done.setdefault(done.receiver, []).append(done)
    for name, all_done in few.items():
        if all_done:
            outbox.done[name] = all_done
            outbox.hours[name] = Counter(_hours_ago(outbox, done) for done in all_done)


def _hours_ago(outbox: Outbox, done: Done) -> int:
    return max(int((outbox.now - done.finished_at).total_seconds() // 3600), 0)


def by_receiver(outboxes: Iterable[Outbox]) -> list[Tally]:
    """One for each receiver of this process, and for each other that something is outstanding or dead for."""
    tallies = {receiver.name: Tally(receiver.name, receiver) for receiver in registry.all()}
    for outbox in outboxes:
        for name in sorted(outbox.names):
            receiver = registry.get(name)
            if receiver is None and not any((name, state) in outbox.counts for state in looks.COUNTED):
                continue
            known = receiver.name if receiver else name
            tallies.setdefault(known, Tally(known, None)).add(outbox, name)
            if receiver is None:
                rows = Delivery.objects.using(outbox.using).filter(receiver=name, state__in=looks.COUNTED)
                tallies[known].recorded = rows.values_list("signal", "sender")[:1].get()
    return list(tallies.values())

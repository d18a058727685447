"""What fails behind a receiver: the errors of its dead and retrying deliveries, grouped by type and message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime

from ..models import Delivery
from ..queryset import State
from . import places
from .columns import traceback_of, type_name
from .filters import names_of

READ = 500
"""Deliveries whose errors are read, the newest first: each has up to five tracebacks."""
_VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]+|\d+", re.IGNORECASE)
_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE)


@dataclass
class Group:
    """Deliveries that fail alike."""

    type: str
    message: str
    """Of the newest; where numbers differ it is one group."""
    traceback: str
    newest: Delivery
    dead: int = 0
    retrying: int = 0
    times: list[datetime] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many deliveries."""
        return self.dead + self.retrying

    @property
    def first(self) -> datetime | None:
        """When it was first seen, in what is still on record."""
        return min(self.times, default=None)

    @property
    def last(self) -> datetime | None:
        """When it was last seen."""
        return max(self.times, default=None)

    @property
    def place(self) -> str:
        """``file:line`` where it was raised: the last frame of the traceback."""
        frames = list(_FRAME.finditer(self.traceback))
        return f"{frames[-1]['file']}:{frames[-1]['line']}" if frames else ""


@dataclass(frozen=True)
class Failing:
    """All of them."""

    groups: list[Group]
    """The most frequent first."""
    everything: bool
    """False: there are more deliveries than were read."""


def failing(name: str, aliases: Iterable[str]) -> Failing:
    """The errors behind the receiver called ``name``."""
    groups: dict[tuple[str, str], Group] = {}
    everything = True
    for using in aliases:
        rows = Delivery.objects.using(using).filter(receiver__in=names_of(name)).defer("payload")
        dead = list(rows.filter(state=State.DEAD).order_by("-finished_at")[:READ])
        retrying = list(rows.filter(pk__in=places.retrying(Delivery.objects.using(using), names_of(name))[:READ]))
        everything = everything and len(dead) < READ and len(retrying) < READ
        for delivery in (*dead, *retrying):
            _add(groups, delivery)
    return Failing(sorted(groups.values(), key=lambda group: -group.count), everything)


def _add(groups: dict[tuple[str, str], Group], delivery: Delivery) -> None:
    if not delivery.errors:
        return
    error = delivery.errors[-1]
    key = _key(error)
    group = groups.get(key)
    if group is None:
        group = Group(key[0], str(error.get("message", "")), traceback_of(error), delivery)
        groups[key] = group
    if delivery.state == State.DEAD:
        group.dead += 1
    else:
        group.retrying += 1
    moments = [parse_datetime(str(each.get("time", ""))) for each in delivery.errors if _key(each) == key]
    group.times += [moment for moment in moments if moment]


def _key(error: dict[str, Any]) -> tuple[str, str]:
    return type_name(error), _VARYING.sub("#", str(error.get("message", "")))

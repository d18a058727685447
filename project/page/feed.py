"""The newest deliveries, grouped by event and put into words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.conf import settings
from django.db.models import Count

from project import mail
from signalq.models import Delivery

if TYPE_CHECKING:
    from datetime import datetime, timedelta

DELIVERIES = 40
MAILS = 5

STATES = list(Delivery.State.values)
UNFINISHED = {Delivery.State.WAITING, Delivery.State.QUEUED, Delivery.State.RUNNING}


@dataclass(frozen=True)
class Line:
    """One delivery: what one receiver made of an event."""

    pk: int
    app: str
    receiver: str
    state: str
    attempt: int
    took: str
    error: str


@dataclass
class Event:
    signal: str
    sender: str
    object_pk: str
    at: datetime
    lines: list[Line] = field(default_factory=list)


@dataclass
class Live:
    """Everything on the page that changes by itself."""

    counts: list[tuple[str, int]]
    events: list[Event]
    dead: list[Line]
    mails: list[mail.Mail]
    mails_count: int
    mails_kept: bool

    @property
    def fingerprint(self) -> str:
        """The same as long as there is nothing new to see."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def unfinished(self) -> int:
        return sum(number for state, number in self.counts if state in UNFINISHED)


def read() -> Live:
    numbers = dict(Delivery.objects.order_by().values_list("state").annotate(n=Count("pk")))
    mails = mail.received(settings.MAIL_DIR)
    dead = Delivery.objects.filter(state=Delivery.State.DEAD).order_by("-pk")[:20]
    return Live(
        counts=[(state, numbers.get(state, 0)) for state in STATES],
        events=_events(),
        dead=[_line(delivery) for delivery in dead],
        mails=[mail.read(path) for path in mails[:MAILS]],
        mails_count=len(mails),
        mails_kept=settings.MAIL_DIR.is_dir(),
    )


def _events() -> list[Event]:
    events: dict[object, Event] = {}
    for delivery in Delivery.objects.order_by("-pk")[:DELIVERIES]:
        event = events.setdefault(
            delivery.event_id,
            Event(_last(delivery.signal), delivery.sender, str(delivery.object_pk or ""), delivery.created_at),
        )
        event.lines.append(_line(delivery))
    # The last one may be cut off in the middle.
    shown = sorted(events.values(), key=lambda event: event.at, reverse=True)
    return shown[:-1] if len(shown) > 1 and sum(len(event.lines) for event in shown) == DELIVERIES else shown


def _line(delivery: Delivery) -> Line:
    module, _, function = delivery.receiver.rpartition(".")
    failure = delivery.errors[-1] if delivery.errors and delivery.state != Delivery.State.DONE else None
    return Line(
        pk=delivery.pk,
        app=module.removesuffix(".receivers").rpartition(".")[2],
        receiver=function,
        state=delivery.state,
        attempt=delivery.attempt,
        took=in_words(delivery.finished_at - delivery.created_at) if delivery.finished_at else "",
        error=f"{_last(failure['type'])}: {failure['message']}" if failure else "",
    )


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def in_words(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"

"""One receiver in the flow: how many of its deliveries are where, and whether it needs somebody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from ..receivers import AsyncReceiver
from ..state import State
from . import describe
from .tally import Tally
from .words import number, span

STUCK = 60.0
"""Seconds overdue, with nothing done meanwhile, after which a receiver needs somebody."""
SLOW = 900.0
"""Seconds overdue after which it does in any case."""


@dataclass(frozen=True)
class ReceiverFlow:
    """One receiver: how many of its deliveries are where, in all outboxes together."""

    name: str
    receiver: AsyncReceiver[..., Any] | None
    """None: unknown in this process. What is outstanding for it is parked."""
    signals: tuple[str, ...]
    """The dotted names of its signals; those that were recorded, for an unknown one."""
    senders: tuple[str, ...]
    """The labels of its senders; "" is any."""
    queue: str
    """Where its messages go; "" if unknown."""
    waiting: int = 0
    """For their time: a countdown, or the next attempt."""
    queued: int = 0
    running: int = 0
    retrying: int = 0
    """Of those waiting and queued: attempted before."""
    later: int = 0
    """Of those waiting: not due yet."""
    dead: int = 0
    capped: frozenset[str] = frozenset()
    """Which of these numbers are a lower bound, because there are more than are counted; see ``shown``."""
    oldest_due: float | None = None
    """Seconds for which the longest overdue is; None if nothing is overdue."""
    last_done: datetime | None = None
    p50: float | None = None
    """Seconds from the commit to done, of the newest done ones; None without any."""
    p99: float | None = None
    hours: tuple[int, ...] = (0,) * 24
    """Done in each of the last 24 hours, the present one last; an estimate where there are thousands."""
    done_lately: int = 0
    """Done in the last minute, as far as seen."""
    aliases: tuple[str, ...] = ()
    """The databases that have something recorded for it."""

    @property
    def outstanding(self) -> int:
        """Not finished."""
        return self.waiting + self.queued + self.running

    @property
    def parked(self) -> bool:
        """Deliveries wait for a receiver that is unknown here."""
        return self.receiver is None and self.outstanding > 0

    @property
    def overdue(self) -> bool:
        """For too long: nothing of it gets done, or too little."""
        late = self.oldest_due or 0.0
        return late > SLOW or (late > STUCK and not self.done_lately)

    @property
    def needs_you(self) -> bool:
        """It will not mend itself."""
        return bool(self.dead) or self.parked or self.overdue

    @property
    def trouble(self) -> str:
        """Why it needs somebody, in words; "" if it does not."""
        found = []
        if self.parked:
            found.append(_("%(count)s parked, unknown here") % {"count": self.shown("outstanding")})
        if self.dead:
            found.append(_("%(count)s dead") % {"count": self.shown("dead")})
        if self.overdue and not self.parked:
            found.append(_("overdue for %(time)s") % {"time": span(self.oldest_due or 0)})
        return ", ".join(found)

    @property
    def urgency(self) -> tuple[Any, ...]:
        """To sort by: the worst first."""
        return (not self.needs_you, -(self.oldest_due or 0), -self.dead, -self.outstanding, self.name)

    def shown(self, name: str) -> str:
        """The number called ``name`` as text: ``10,000+`` where there are more than were counted."""
        capped = name in self.capped or (name == "outstanding" and bool(self.capped & OPEN))
        return number(getattr(self, name), capped=capped)


OPEN = {"waiting", "queued", "running"}


def receiver_flow(row: Tally, queue: str) -> ReceiverFlow:
    """What ``row`` says, to be read; its messages go to ``queue``."""
    signal, sender = row.recorded
    p50, p99 = row.percentiles()
    return ReceiverFlow(
        name=row.name,
        receiver=row.receiver,
        signals=tuple(row.receiver.signals) if row.receiver else (signal,),
        senders=tuple(map(describe.sender, row.receiver.options.senders)) if row.receiver else (sender,),
        queue=queue,
        waiting=row.numbers[State.WAITING],
        queued=row.numbers[State.QUEUED],
        running=row.numbers[State.RUNNING],
        dead=row.numbers[State.DEAD],
        retrying=row.retrying,
        later=row.later,
        capped=frozenset(row.capped),
        oldest_due=max(row.overdue.values(), default=None),
        last_done=max((done.finished_at for done in row.done), default=None),
        p50=p50,
        p99=p99,
        hours=tuple(row.hours[ago] for ago in reversed(range(24))),
        done_lately=row.lately,
        aliases=tuple(row.aliases),
    )

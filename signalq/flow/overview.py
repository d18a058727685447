"""What is going on, for people: the command ``status``, the admin, metrics and checks ask here.

The figures are for reading. What is not finished is exact up to a cap; the hours of what is done are an estimate where
there is a lot of it. All of it takes a fraction of a second with a million deliveries (see looks.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from django.utils.translation import gettext as _, ngettext

from ..receivers import registry
from . import lights, tally
from .lights import Light, Queue
from .receiver import OPEN, ReceiverFlow, receiver_flow
from .words import number, span

__all__ = ("Flow", "Light", "Queue", "ReceiverFlow", "flow")


@dataclass(frozen=True)
class Flow:
    """All of it at one moment."""

    receivers: tuple[ReceiverFlow, ...]
    """The worst first."""
    lights: tuple[Light, ...]
    """publisher, broker, workers, relay."""
    queues: tuple[Queue, ...]
    """By name: what the light of the workers says, queue by queue."""
    rate: float
    """Deliveries done a second, in the last minute."""
    aliases: tuple[str, ...]
    """The databases that were looked at."""
    away: dict[str, str] = field(default_factory=dict)
    """The databases that did not answer, with what they said instead."""

    @property
    def outstanding(self) -> int:
        """Not finished."""
        return sum(receiver.outstanding for receiver in self.receivers)

    @property
    def backlog(self) -> int:
        """Not finished, and due."""
        return self.outstanding - sum(receiver.later for receiver in self.receivers)

    @property
    def capped(self) -> bool:
        """There are more outstanding than were counted."""
        return any(receiver.capped & OPEN for receiver in self.receivers)

    @property
    def oldest(self) -> float | None:
        """Seconds for which the longest overdue is; None if nothing is overdue."""
        return max((row.oldest_due for row in self.receivers if row.oldest_due is not None), default=None)

    @property
    def seconds_left(self) -> float | None:
        """Until the backlog is done at this rate; None if it is not being done."""
        if not self.backlog:
            return 0.0
        return self.backlog / self.rate if self.rate else None

    @property
    def needing(self) -> tuple[ReceiverFlow, ...]:
        """Those that need somebody."""
        return tuple(receiver for receiver in self.receivers if receiver.needs_you)

    @property
    def is_well(self) -> bool:
        """Nobody has to do anything."""
        return not self.needing and not self.away and not any(light.state == "bad" for light in self.lights)

    @property
    def sentence(self) -> str:
        """What somebody should know who reads nothing else."""
        return f"{self._lead()} {self._body()}"

    def _lead(self) -> str:
        if self.away:
            return _("No answer from %(databases)s.") % {"databases": ", ".join(map(repr, self.away))}
        if needing := len(self.needing):
            text = ngettext(
                "%(count)s of %(total)s receivers needs you.", "%(count)s of %(total)s receivers need you.", needing
            )
            return text % {"count": number(needing), "total": number(len(self.receivers))} + " " + _("Nothing is lost:")
        bad = [str(lights.NAMES[light.name]) for light in self.lights if light.state == "bad"]
        if bad:
            return _("Look at the %(lights)s. Nothing is lost:") % {"lights": ", ".join(bad)}
        return _("All is well:")

    def _body(self) -> str:
        later = self.outstanding - self.backlog
        if not self.backlog:
            for_later = ngettext(
                "%(count)s for later, nothing else waits", "%(count)s for later, nothing else waits", later
            )
            text = for_later if later else _("nothing waits")
            return text % {"count": number(later, capped=self.capped)} + "."
        count = {"count": number(self.backlog, capped=self.capped)}
        if self.oldest is None:
            return ngettext("%(count)s under way.", "%(count)s under way.", self.backlog) % count
        parts = [
            ngettext("%(count)s waiting", "%(count)s waiting", self.backlog) % count,
            _("oldest %(time)s") % {"time": span(self.oldest)},
        ]
        return ", ".join([*parts, *self._draining()]) + "."

    def _draining(self) -> list[str]:
        blame = lights.blame(self.lights, self.queues)
        if self.seconds_left is None:
            if all(row.parked or not row.outstanding for row in self.receivers):
                blame = _("nobody here knows their receiver")
            return [_("not draining: %(cause)s") % {"cause": blame or _("nothing was done in the last minute")}]
        found = [
            _("draining %(rate)s/s") % {"rate": number(self.rate)},
            _("about %(time)s left") % {"time": span(max(self.seconds_left, 1.0))},
        ]
        return [*found, blame] if blame else found


def flow(aliases: Iterable[str] | None = None) -> Flow:
    """What is going on now in the outboxes of ``aliases``; in all there are, if None.

    Asks the databases a few bounded queries, and the broker for a second at the most. Raises nothing: what does not
    answer is in the result.
    """
    queues = lights.queues_of(registry.all())
    asked = lights.Asked(queues.values())
    outboxes, away = tally.look(aliases)
    tallies = tally.by_receiver(outboxes)
    broker = asked.wait()
    found = lights.look_at_queues(tallies, queues, broker)
    receivers = [receiver_flow(each, queues.get(each.name, "")) for each in tallies]
    return Flow(
        receivers=tuple(sorted(receivers, key=lambda receiver: receiver.urgency)),
        lights=lights.all_lights(tallies, found, broker),
        queues=found,
        rate=sum(outbox.rate for outbox in outboxes),
        aliases=tuple(outbox.using for outbox in outboxes),
        away=away,
    )

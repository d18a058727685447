"""Four lights for whoever is called at night: publisher, broker, workers, relay; each with cause and remedy in words.

Workers obey no remote control, so they are told by their traces: AMQP counts who consumes a queue, and everywhere the
outbox shows what runs and what was done lately. What cannot be known is said to be unknown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext as _, gettext_lazy, ngettext

from .. import conf, wire
from ..exceptions import CeleryAppMissing
from ..publish import publisher
from ..state import State
from .looks import PROBE
from .words import number, span

if TYPE_CHECKING:
    from ..receivers import AsyncReceiver
    from .tally import Tally

WAIT = 1.0
"""Seconds that the broker has for its answer."""
STUCK = 60.0
"""Seconds for which what is queued may be overdue before somebody should be working on it."""
NAMES: dict[str, str | Promise] = {
    "publisher": gettext_lazy("publisher"),
    "broker": gettext_lazy("broker"),
    "workers": gettext_lazy("workers"),
    "relay": gettext_lazy("relay"),
}
"""The lights in words."""
AT_ONCE = 4
"""Looks at a broker that hangs, at the most: a page that is reloaded must not pile up threads."""


class Light(NamedTuple):
    """One thing that has to work, and whether it seems to."""

    name: str
    """ "publisher", "broker", "workers" or "relay"."""
    state: str
    """ "ok", "warning", "bad", or "idle" where nothing can be known."""
    cause: str
    """What was seen, in words."""
    remedy: str = ""
    """What to do; "" where there is nothing."""


@dataclass(frozen=True)
class Queue:
    """One queue of the broker, and what is known of its workers."""

    name: str
    state: str
    """As a Light's."""
    cause: str
    depth: int | None
    """Messages that wait in it; each may be of many deliveries. None if the broker did not say."""
    consumers: int | None
    """Workers that are connected to it; None where the broker does not know."""
    running: int
    """Deliveries that a worker holds now."""
    done_lately: int
    """Deliveries done in the last minute, as far as seen."""


class Broker(NamedTuple):
    """What the broker said."""

    address: str = ""
    error: str = ""
    """What is wrong; "" if it answered."""
    queues: dict[str, tuple[int, int | None]] = {}
    """Of each queue the messages and the consumers."""
    asked: bool = True


class Asked:
    """A question to the broker that is under way in a thread, so that one which hangs takes WAIT and no more."""

    _free = threading.BoundedSemaphore(AT_ONCE)

    def __init__(self, queues: Iterable[str]) -> None:
        self._queues = sorted(set(queues))
        self._channel, self._address = wire.Channel(), ""
        self._answer: Broker | None = None
        self._answered = threading.Event()
        if not conf.current().PUBLISH:
            self._answer = Broker(asked=False)
        else:
            self._begin()
        self._until = time.monotonic() + WAIT

    def _begin(self) -> None:
        try:
            self._address = self._channel.address()  # asks nobody; it loads the transport, which is not to count
        except Exception as error:  # noqa: BLE001 - whatever is wrong with its url
            self._answer = Broker(error=str(error))
            return
        if self._free.acquire(blocking=False):
            threading.Thread(target=self._run, name="signalq-look-at-broker", daemon=True).start()

    def wait(self) -> Broker:
        """The answer, or that there was none in time."""
        if self._answer is None:
            self._answered.wait(max(self._until - time.monotonic(), 0))
        return self._answer or Broker(self._address, _("no answer within %(time)s") % {"time": span(WAIT)})

    def _run(self) -> None:
        channel = self._channel
        try:
            queues = self._queues or [channel.queue(PROBE)]
            self._answer = Broker(self._address, "", {queue: channel.look(queue) for queue in queues})
        except Exception as error:  # noqa: BLE001 - whatever the transport raises is what is wrong
            self._answer = Broker(self._address, f"{type(error).__name__}: {error}")
        finally:
            self._answered.set()
            channel.close()
            self._free.release()


def queues_of(receivers: Iterable[AsyncReceiver[..., Any]]) -> dict[str, str]:
    """The queue of each receiver, by name. No broker is asked."""
    channel = wire.Channel()
    try:
        return {receiver.name: channel.queue(receiver.name) for receiver in receivers}
    except (CeleryAppMissing, LookupError):
        return {receiver.name: receiver.options.queue or "" for receiver in receivers}


def look_at_queues(tallies: Sequence[Tally], queues: Mapping[str, str], broker: Broker) -> tuple[Queue, ...]:
    """Each queue that a receiver of this process has."""
    names = sorted({name for name in queues.values() if name})
    return tuple(_queue(name, [row for row in tallies if queues.get(row.name) == name], broker) for name in names)


def _queue(name: str, tallies: Sequence[Tally], broker: Broker) -> Queue:
    depth, consumers = broker.queues.get(name, (None, None))
    running, lately = sum(row.leases for row in tallies), sum(row.lately for row in tallies)
    late = max((row.overdue.get(State.QUEUED, 0.0) for row in tallies), default=0.0)
    state, cause = "ok", _("`%(queue)s`: %(running)s running, %(done)s done in the last minute")
    if consumers == 0:
        state = "bad" if depth or late or any(row.numbers[State.QUEUED] for row in tallies) else "warning"
        cause = _("no worker on `%(queue)s`")
    elif late > STUCK and not (running or lately):
        state = "bad"
        cause = _("nothing is done on `%(queue)s`") if consumers else _("no sign of a worker on `%(queue)s`")
    elif consumers is None and not (running or lately):
        state, cause = "idle", _("`%(queue)s`: nothing done lately, so that no worker has been seen")
    elif consumers and not (running or lately):
        cause = ngettext(
            "`%(queue)s`: %(consumers)s worker, nothing to do",
            "`%(queue)s`: %(consumers)s workers, nothing to do",
            consumers,
        )
    words = {"queue": name, "running": number(running), "done": number(lately), "consumers": number(consumers or 0)}
    return Queue(name, state, cause % words, depth, consumers, running, lately)


def all_lights(tallies: Sequence[Tally], queues: Sequence[Queue], broker: Broker) -> tuple[Light, ...]:
    """publisher, broker, workers, relay."""
    return (_publisher(), _broker(broker), _workers(queues), _relay(tallies, broker))


def blame(lights: Iterable[Light], queues: Iterable[Queue]) -> str:
    """What keeps the work from being done; "" if nothing is known to."""
    bad = {light.name for light in lights if light.state == "bad"}
    if "broker" in bad:
        return _("the broker cannot be reached")
    if idle := [queue.cause for queue in queues if queue.state == "bad"]:
        return ", ".join(idle)
    return _("no relay") if "relay" in bad else ""


def _publisher() -> Light:
    if not conf.current().PUBLISH:
        cause = _('This process only records: SIGNALQ["PUBLISH"] is False.')
        return Light("publisher", "idle", cause, _("A relay of a process that publishes brings it to the workers."))
    wait = publisher.retry_in
    if wait is None:
        return Light("publisher", "ok", _("This process publishes as soon as a transaction is committed."))
    return Light(
        "publisher",
        "warning",
        _("This process cannot reach the broker; its next try is due in %(time)s.") % {"time": span(wait)},
        _("Nothing is lost: it is recorded, and a relay publishes it. Look at the broker."),
    )


def _broker(broker: Broker) -> Light:
    if not broker.asked:
        return Light("broker", "idle", _('Not asked: SIGNALQ["PUBLISH"] is False.'))
    if broker.error:
        cause = f"{broker.address}: {broker.error}" if broker.address else broker.error
        remedy = _("Start it, or correct CELERY_BROKER_URL. What is recorded waits for it.")
        return Light("broker", "bad", cause, remedy)
    depths = [
        ngettext("%(count)s message in `%(queue)s`", "%(count)s messages in `%(queue)s`", depth)
        % {"count": number(depth), "queue": queue}
        for queue, (depth, _consumers) in broker.queues.items()
    ]
    return Light("broker", "ok", _("%(address)s answers.") % {"address": broker.address} + f" {', '.join(depths)}.")


_WORST = ("bad", "warning", "ok", "idle")


def _workers(queues: Sequence[Queue]) -> Light:
    if not queues:
        return Light("workers", "idle", _("No receiver of this process has a queue."))
    state = min((queue.state for queue in queues), key=_WORST.index)
    cause = "; ".join(queue.cause for queue in queues if queue.state == state or queue.state in ("bad", "warning"))
    absent = ",".join(queue.name for queue in queues if queue.state in ("bad", "warning"))
    remedy = _("Start one: celery -A PROJECT worker -Q %(queues)s") % {"queues": absent} if absent else ""
    if state == "idle":
        remedy = _("manage.py signalq status --probe asks one.")
    return Light("workers", state, f"{cause}.", remedy)


def _relay(tallies: Sequence[Tally], broker: Broker) -> Light:
    """It is known by what it leaves undone: what has come due is its work, whatever the queues are like."""
    late = max((row.overdue.get(state, 0.0) for row in tallies if row.receiver for state in _ITS_OWN), default=0.0)
    if late <= 3 * conf.current().GRACE:
        return Light("relay", "ok", _("Nothing is overdue that it would have taken up."))
    cause = _("Due for %(time)s, and no relay has taken it up.") % {"time": span(late)}
    if broker.error:
        return Light("relay", "warning", cause, _("It takes nothing up while the broker is away. Look at the broker."))
    remedy = _('Each worker runs one, unless SIGNALQ["RELAY"] is False: start a worker, or manage.py signalq relay.')
    return Light("relay", "bad", cause, remedy)


_ITS_OWN = (State.WAITING, State.RUNNING)
"""What only a relay moves on when it has come due. What is queued it leaves alone in a busy queue."""

"""Are they there? A round trip through broker and worker, and a delivery that only a relay can see.

Workers obey no remote control, so they are asked as they are always asked: by a message with the number of a row. Their
answer is that the row is gone. The relay finds one that has come due without a message. Probes are no deliveries: no
receiver has them, no signal is sent for them, nothing counts them; one that was left over goes when it comes due.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError, connections
from django.db.models.functions import Now

from . import conf, wire
from .exceptions import CeleryAppMissing
from .flow import looks
from .flow.words import number, span
from .models import Delivery
from .queryset import DeliveryQuerySet
from .state import State, after

NAME = looks.PROBE
"""In the place of a receiver's name, and that of the task."""
POLL_FIRST, POLL_MAX = 0.001, 0.05
"""Seconds between two looks whether the answer is there."""
LEFT_OVER = 60.0
"""Seconds beyond the timeout after which a relay removes the worker's row, if nobody did."""


@dataclass(frozen=True)
class Finding:
    """What was found out about one part: "database", "broker", "worker" or "relay"."""

    part: str
    trouble: str = ""
    """What is wrong and the way out; "" if it answered."""
    seconds: float | None = None
    """How long its answer took."""


def answer(using: str, ids: Sequence[int]) -> None:
    """A worker's: it was asked with these row numbers."""
    _rows(using).filter(pk__in=ids)._raw_delete(using)


def answer_due(using: str) -> None:
    """A relay's: this is what it takes up for itself, and what was left over."""
    _rows(using).filter(due_at__lte=Now())._raw_delete(using)


def probe(using: str, timeout: float, queue: str | None = None) -> list[Finding]:
    """Ask everything that a delivery on ``using`` needs, for ``timeout`` seconds; the worker of ``queue``, if given."""
    try:
        if not looks.has_outbox(using):
            option = "" if using == "default" else f" --database={using}"
            return [Finding("database", f"{using!r} has no outbox: run manage.py migrate signalq{option}.")]
        return [Finding("database"), *_Asking(using, timeout, queue).findings()]
    except (DatabaseError, InterfaceError) as error:
        connections[using].close()
        return [Finding("database", f"{using!r} does not answer: {type(error).__name__}: {error}".strip())]


class _Asking:
    """One probe of one outbox."""

    def __init__(self, using: str, timeout: float, queue: str | None) -> None:
        self._using, self._timeout = using, timeout
        self._channel = wire.Channel()
        self._queue = queue or ""
        self._without_worker = False

    def findings(self) -> list[Finding]:
        """broker, worker, relay; what needs the broker is left out without one."""
        rows: dict[int, str] = {}
        try:
            if trouble := _why_not_now():
                return [Finding("broker", trouble)]
            self._queue = self._queue or self._channel.queue(NAME)
            rows[self._record(State.QUEUED, self._timeout + LEFT_OVER)] = "worker"
            if trouble := self._send(next(iter(rows))):
                return [Finding("broker", trouble)]
            rows[self._record(State.WAITING, 0.0)] = "relay"
            took = self._wait_for(rows)
            return [
                Finding("broker"),
                Finding("worker", "" if "worker" in took else self._why_no_worker(), took.get("worker")),
                Finding("relay", "" if "relay" in took else self._why_no_relay(), took.get("relay")),
            ]
        finally:
            self._channel.close()
            answer(self._using, list(rows))

    def _record(self, state: State, due_in: float) -> int:
        row = Delivery(receiver=NAME, state=state, event_id=uuid.uuid4(), due_at=after(due_in), created_at=Now())
        # In bulk, as that sends no signals.
        return int(Delivery.objects.using(self._using).bulk_create([row])[0].pk)

    def _send(self, pk: int) -> str:
        """Send the message about row ``pk``; what is wrong with the broker."""
        try:
            _depth, consumers = self._channel.look(self._queue)
            if consumers != 0:  # else it would lie there, in a queue that nobody may ever have
                self._channel.send([wire.Wake(self._using, NAME, pk, alone=True)], self._queue)
        except Exception as error:  # noqa: BLE001 - whatever the transport raises is what is wrong
            return (
                f"{self._channel.address()} does not take a message: {type(error).__name__}: {error}. "
                "Start it, or correct CELERY_BROKER_URL."
            )
        self._without_worker = consumers == 0
        return ""

    def _wait_for(self, rows: dict[int, str]) -> dict[str, float]:
        """Seconds until each of ``rows`` was answered; those that were."""
        started, took, poll = time.monotonic(), dict[str, float](), POLL_FIRST
        missing = {pk: part for pk, part in rows.items() if not (part == "worker" and self._without_worker)}
        while missing and time.monotonic() - started < self._timeout:
            left = set(_rows(self._using).filter(pk__in=list(missing)).values_list("pk", flat=True))
            took |= {missing.pop(pk): time.monotonic() - started for pk in set(missing) - left}
            # Nothing tells a process that a row is gone, in no database that signalq is for.
            time.sleep(poll)
            poll = min(poll * 1.2, POLL_MAX)
        return took

    def _why_no_worker(self) -> str:
        start = f"celery -A PROJECT worker -Q {self._queue}"
        if self._without_worker:
            return f"none is connected to queue {self._queue!r}. Start one: {start}"
        said = f"no answer from queue {self._queue!r} within {span(self._timeout)}"
        try:
            depth, consumers = self._channel.look(self._queue)
        except Exception as error:  # noqa: BLE001 - the broker went away meanwhile
            return f"{said}: {type(error).__name__}: {error}"
        if consumers or not depth:
            return (
                f"{said}, although its messages are taken: are the workers busy (--timeout), or do they lack this "
                f"version of signalq, or use another database than {self._using!r} here?"
            )
        return f"{said}; messages that wait in it: {number(depth)}. Are its workers busy (--timeout)? Else: {start}"

    def _why_no_relay(self) -> str:
        return (
            f"none took up within {span(self._timeout)} what was due on {self._using!r}. Each worker runs one unless "
            'SIGNALQ["RELAY"] is False; manage.py signalq relay runs one more. One that cannot reach the broker '
            "takes nothing up either."
        )


def _why_not_now() -> str:
    """What keeps this process from asking at all."""
    if not conf.current().PUBLISH:
        return 'SIGNALQ["PUBLISH"] is False: no message is sent, not even this one.'
    try:
        eager = wire.celery_app().conf.task_always_eager
    except CeleryAppMissing as error:
        return str(error)
    return "CELERY_TASK_ALWAYS_EAGER is on: tasks run in this process, and no worker is asked." if eager else ""


def _rows(using: str) -> DeliveryQuerySet:
    return Delivery.objects.using(using).filter(receiver=NAME)

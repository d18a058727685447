"""For a project's tests: what was captured, and handlers that run when the test says so. No broker, no worker.

``DeliveriesMixin`` for unittest; for pytest the fixture ``deliveries`` of pytest_signalq.py.
"""

from __future__ import annotations

import contextlib
import difflib
import unittest
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from . import codec, conf, outbox, publish, wire
from .drain import awaiting, deliver, key_of
from .event import Event, Result
from .exceptions import SignalqError
from .load import Loader
from .receivers import AsyncReceiver, registry
from .state import State

if TYPE_CHECKING:
    from .drain import Key
    from .models import Delivery

    _Case = unittest.TestCase
else:
    _Case = object


@dataclass(frozen=True, slots=True)
class Captured:
    """One event on its way to one receiver, as it stood when the test asked. It does not change; ask again."""

    receiver: str
    """The receiver's name."""
    state: str
    """"queued", "waiting" (for its countdown, or the next attempt), "done", "dead" or "discarded"."""
    attempt: int
    """How often it was attempted."""
    object_pk: str
    """The primary key of the signal's instance as text; "" if there is none."""
    using: str
    """The alias of its database."""
    event: Event = field(repr=False)
    """As it travelled, decoded: a row is a Reference in it."""
    errors: tuple[Mapping[str, Any], ...] = field(repr=False)
    """Of its attempts, the last one last: each with "attempt", "type", "message", "traceback"."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What the handler gets, loaded now. Raises ObjectGone if a row is no longer there."""
        loader = Loader()
        return {name: loader.thaw(value) for name, value in self.event.arguments.items()}


class Deliveries:
    """What was captured in this test, in the order of its capture: a collection of Captured.

    Inside a TestCase, where nothing commits, what is on Django's list for after the commit counts as committed with the
    block that captured it. An ``atomic`` block that is still open, or was rolled back, shows nothing.
    """

    def __init__(self) -> None:
        self._pendings: list[outbox.Pending] = []
        self._messages: dict[Key, wire.Message] = {}
        self._transient: dict[Key, Delivery] = {}

    def __len__(self) -> int:
        return len(self._look())

    def __iter__(self) -> Iterator[Captured]:
        return iter(self.all())

    def all(self) -> list[Captured]:
        """All of them, whatever became of each. Raises SignalqError where the test has no access to the database."""
        return [_captured(row) for row in self._look()]

    def to(self, receiver: AsyncReceiver[..., Any] | str) -> list[Captured]:
        """Those for ``receiver``: what ``async_receiver`` made, or its name. Raises LookupError for an unknown name."""
        names = _names(receiver)
        return [_captured(row) for row in self._look() if row.receiver in names]

    def drain(self, *, catch: bool = False, times: int = 1) -> list[Captured]:
        """Run everything outstanding, and what that causes, whatever it is due at; what was run, each once.

        A handler's error is raised here, and what comes after it stays outstanding; with ``catch`` it is kept in the
        delivery's ``errors``, and the delivery waits for its next attempt: the next drain, not this one.

        ``times``: each delivery this often, as if its worker had died between the handler's end and the commit, except
        for the last time. What an atomic handler wrote is rolled back then; whatever else it did, it did.
        """
        if times < 1:
            raise ValueError(f"drain(times={times!r}): once at the least.")
        ran: dict[Key, None] = {}
        while True:
            before = len(ran)
            for receiver, rows in self._due(ran):
                told = deliver(receiver, rows, self._messages, times)
                ran.update(dict.fromkeys(key_of(row) for row, _ in told))
                for _, outcome in told:
                    if not catch and outcome.error and outcome.result in (Result.RETRY, Result.DEAD):
                        raise outcome.error
            if len(ran) == before:
                found = {key_of(row): row for row in self._look()}
                return [_captured(found[key]) for key in ran if key in found]

    # what there is

    def _look(self) -> list[Delivery]:
        """A row for each, in the order of capture; what has none in the database gets one that is not saved."""
        uncommitted = set(awaiting())
        recorded = self._recorded(pending for pending in self._pendings if pending not in uncommitted)
        rows = []
        for pending in self._pendings:
            for item in pending.items:
                key = (item.event_id, item.receiver)
                if pending in uncommitted:
                    rows.append(_unsaved(pending.using, item))
                elif key in self._messages:
                    rows.append(self._transient.setdefault(key, _unsaved(pending.using, item)))
                elif key in recorded:
                    rows.append(recorded[key])
        return rows

    def _recorded(self, pendings: Iterable[outbox.Pending]) -> dict[Key, Delivery]:
        """Only on databases where this test captured something: others may not be the tests'."""
        from .models import Delivery

        wanted: dict[str, list[uuid.UUID]] = {}
        for pending in pendings:
            ids = [item.event_id for item in pending.items if item.durable]
            wanted.setdefault(pending.using, []).extend(ids)
        try:
            found = [
                row
                for using, ids in wanted.items()
                if ids
                for row in Delivery.objects.using(using).filter(event_id__in=ids)
            ]
        except (RuntimeError, AssertionError, SynchronousOnlyOperation) as error:
            # So pytest-django, Django's SimpleTestCase and Django in an event loop refuse.
            raise SignalqError(
                "deliveries cannot reach the outbox from here. With pytest-django mark the test with "
                "@pytest.mark.django_db(databases=[...]); with unittest take Django's TestCase and name the alias in "
                "its databases; in a coroutine write await sync_to_async(deliveries.drain)()."
            ) from error
        return {key_of(row): row for row in found}

    def _add(self, pending: outbox.Pending) -> None:
        self._pendings.append(pending)

    def _send(self, items: Sequence[wire.Item]) -> None:
        """In the place of the publisher. Nobody needs to be woken here; a message is all there is of its event."""
        for item in items:
            if isinstance(item, wire.Message):
                self._messages[codec.load_event(item.payload).id, item.receiver] = item

    # running it

    def _due(self, ran: Mapping[Key, None]) -> list[tuple[AsyncReceiver[..., Any], list[Delivery]]]:
        """What is to be run now, together what a worker would get in one call."""
        for pending in awaiting():
            pending()
        groups: dict[object, tuple[AsyncReceiver[..., Any], list[Delivery]]] = {}
        for row in self._look():
            receiver = registry.get(row.receiver)
            if receiver is None or row.state not in (State.WAITING, State.QUEUED) or key_of(row) in ran:
                continue
            # What was attempted before travels alone.
            shares = receiver.batch_size is not None and row.attempt == 0
            group = (row.receiver, row._state.db) if shares else key_of(row)
            groups.setdefault(group, (receiver, []))[1].append(row)
        size = conf.current().CHUNK
        return [
            (receiver, rows[start : start + size])
            for receiver, rows in groups.values()
            for start in range(0, len(rows), size)
        ]


class DeliveriesMixin(_Case):
    """``self.deliveries`` in a unittest: ``class SignUpTests(DeliveriesMixin, TestCase)``, ahead of any test case."""

    deliveries: Deliveries

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Around setUp and tearDown too, whoever forgets to call super() there."""
        with capturing() as self.deliveries:
            return super().run(result)


@contextlib.contextmanager
def capturing() -> Iterator[Deliveries]:
    """What the fixture and the mixin do: keep what is captured, in any thread, and let nothing through to the broker.

    Raises ImproperlyConfigured without Django set up, or without signalq in INSTALLED_APPS.
    """
    if not apps.apps_ready or not apps.is_installed("signalq"):
        raise ImproperlyConfigured(
            'deliveries needs Django set up, with "signalq" in INSTALLED_APPS: set DJANGO_SETTINGS_MODULE, and with '
            "pytest have pytest-django installed, or call django.setup() in conftest.py."
        )
    deliveries, add = Deliveries(), outbox.add

    def keep(pending: outbox.Pending) -> None:
        deliveries._add(pending)
        add(pending)

    with mock.patch.object(outbox, "add", keep), mock.patch.object(publish, "send", deliveries._send):
        yield deliveries


def _names(receiver: AsyncReceiver[..., Any] | str) -> tuple[str, ...]:
    if isinstance(receiver, AsyncReceiver):
        return receiver.names
    if not isinstance(receiver, str):
        raise TypeError(f"to() takes a receiver made by async_receiver, or its name, not {receiver!r}.")
    if receiver in registry:
        return registry[receiver].names
    near = [name for name in registry if name.endswith(f".{receiver}")]
    near = near or difflib.get_close_matches(receiver, registry, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(registry)) or 'none'}."
    raise LookupError(f"There is no receiver {receiver!r}. {hint}")


def _unsaved(using: str, item: outbox.Item) -> Delivery:
    from .models import Delivery

    row = Delivery(
        event_id=item.event_id,
        receiver=item.receiver,
        object_pk=item.object_pk,
        state=State.WAITING if item.countdown > 0 else State.QUEUED,
        payload=item.payload,
    )
    row._state.db = using
    return row


def _captured(row: Delivery) -> Captured:
    event, using = codec.load_event(row.payload), str(row._state.db)
    return Captured(row.receiver, str(row.state), row.attempt, row.object_pk, using, event, tuple(row.errors))

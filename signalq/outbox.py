"""3 record: what is pending in a transaction becomes rows, in one INSERT just before its commit.

A captured event waits on Django's own ``run_on_commit`` list, which Django trims when a savepoint rolls back. The
``commit`` of that connection object is wrapped, at the first capture on it: Django's Atomic calls it last of all.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from . import publish, signals, wire
from .exceptions import OutboxMissing

if TYPE_CHECKING:
    from .context import Captured
    from .queryset import DeliveryQuerySet


@dataclass(slots=True)
class Item:
    """One event for one receiver, encoded: all that its row, or its message, will hold. Nobody changes it."""

    # Not frozen: a frozen dataclass takes four times as long to make.
    receiver: str
    durable: bool
    alone: bool
    """It must not share a message with others."""
    countdown: float
    expires: float | None
    """For a transient delivery; a durable one is asked about it at its claim."""
    id: str
    """The event's, as text: most of the ways need no more."""
    signal: str
    sender: str
    object_pk: str
    key: str
    payload: str

    @property
    def event_id(self) -> uuid.UUID:
        """The event's id."""
        return uuid.UUID(self.id)


class Ours:
    """A function on Django's list of those for after the commit. It runs before anybody else's, which may raise."""

    __slots__ = ("__qualname__", "__weakref__", "savepoint_state")

    def __init__(self, name: str) -> None:
        self.__qualname__ = name  # Django logs it if the function fails
        self.savepoint_state = 0
        """Django's number of the last savepoint before it."""

    def __call__(self) -> None:
        raise NotImplementedError


class Pending(Ours):
    """The items of one captured event, in the place where Django keeps functions for after the commit."""

    __slots__ = ("connection", "context", "items", "recorded", "wakes")

    def __init__(self, connection: BaseDatabaseWrapper, items: list[Item], context: Captured | None = None) -> None:
        # Not by way of super(), as there is one for each save.
        self.__qualname__, self.savepoint_state = "signalq's record of an event", 0
        self.connection = connection
        self.items = items
        self.context = context
        """What the event was sent under, for the next of the transaction to compare."""
        self.recorded = False
        self.wakes: Sequence[wire.Item] = ()
        """What to publish when its transaction is committed, if it is recorded already."""

    @property
    def using(self) -> str:
        """The alias whose transaction it belongs to."""
        return self.connection.alias

    def __call__(self) -> None:
        """After the commit: tell. In a TestCase, where nothing commits, record now."""
        if not self.recorded:
            self.recorded = True
            publish.send(_write(self.using, [self]))
        signals.captured(self.using, self.items)


def add(pending: Pending) -> None:
    """Record ``pending`` with the transaction that is open on its alias; at once if there is none."""
    connection = pending.connection
    if connection.in_atomic_block and connection.commit_on_exit:
        _line_up(connection, pending)
        return
    # Autocommit, or a transaction that the user commits by hand. Not with those for after the commit, where a failing
    # INSERT would be swallowed.
    wakes = _write(pending.using, [pending])
    # Not get_autocommit(), which would open a connection for what needs none.
    if connection.settings_dict["AUTOCOMMIT"] if connection.connection is None else connection.autocommit:
        signals.captured(pending.using, pending.items)
        publish.send(wakes)
        return
    pending.recorded, pending.wakes = True, wakes
    # On Django's list all the same, which it trims and empties as the transaction asks.
    _line_up(connection, pending)


def after_commit(using: str, function: Ours) -> None:
    """Have ``function`` called when the atomic block that is open on ``using`` has committed."""
    _line_up(connections[using], function)


def last_context(connection: BaseDatabaseWrapper) -> Captured | None:
    """What the event before took along, if it was captured in the transaction that is open on ``connection``."""
    lined_up = connection.run_on_commit
    function = lined_up[-1][1] if lined_up else None
    return function.context if isinstance(function, Pending) else None


def _line_up(connection: BaseDatabaseWrapper, function: Ours) -> None:
    """As ``transaction.on_commit(function, robust=True)`` does; that refuses a transaction which is ended by hand."""
    function.savepoint_state = connection.savepoint_state
    if not hasattr(connection, "_signalq_hooks"):
        connection._signalq_hooks = Hooks(connection)  # type: ignore[attr-defined]
    lined_up, savepoints = connection.run_on_commit, set(connection.savepoint_ids)
    if lined_up and lined_up[-1][0] == savepoints:
        # One set for a thousand saves: each object that is kept brings the next run of the garbage collector closer.
        savepoints = lined_up[-1][0]
    lined_up.append((savepoints, function, True))  # type: ignore[arg-type]


class Hooks:
    """What signalq adds to one connection object: see the module's docstring."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self._commit: Callable[[], None] = connection.commit
        self._set_autocommit: Callable[..., None] = connection.set_autocommit
        self._savepoint_rollback: Callable[[str | None], None] = connection.savepoint_rollback  # type: ignore[assignment]
        # On this connection object alone.
        for name in ("commit", "set_autocommit", "savepoint_rollback", "clean_savepoints"):
            setattr(connection, name, getattr(self, name))

    def commit(self) -> None:
        """Record what is pending, commit, and hand the new rows to the publisher: no failing hook can stop that."""
        self.connection.validate_no_atomic_block()
        try:
            wakes = self._record()
            self._commit()
        except BaseException as error:
            # A commit that the database refuses is for Django's Atomic to roll back, or for the user. After anything
            # else Atomic turns autocommit on, and that commits what is open on SQLite and MariaDB.
            if self._unrecorded() or (self._ours() and not isinstance(error, DatabaseError)):
                self._abandon()
            raise
        self._committed()
        publish.send(wakes)

    def set_autocommit(self, autocommit: bool, *arguments: Any, **keywords: Any) -> None:
        """Turn autocommit on or off. On, it commits what is open: never data without its deliveries."""
        ends = autocommit and not self.connection.in_atomic_block
        if ends and self._unrecorded():
            # Neither committed nor rolled back: an interrupt, such as a SystemExit, came in between.
            self._abandon()
        wakes = self._wakes() if ends else []
        self._set_autocommit(autocommit, *arguments, **keywords)
        if ends:
            self._committed()
            publish.send(wakes)

    def savepoint_rollback(self, sid: str | None) -> None:
        """Drop what was captured since a savepoint made by hand, which Django's own list does not know."""
        self._savepoint_rollback(sid)
        # Django numbers the savepoints of a connection: "s<thread>_x<number>"; outside a transaction there is none.
        number = (sid or "").rpartition("_x")[2]
        if number.isdigit():
            self._keep(lambda function: function.savepoint_state < int(number))

    def clean_savepoints(self) -> None:
        """Leave the numbers of savepoints as they are: begun anew, they would say nothing about what came first."""

    def _ours(self) -> list[Ours]:
        return [function for _, function, *_ in self.connection.run_on_commit if isinstance(function, Ours)]

    def _unrecorded(self) -> list[Pending]:
        return [function for function in self._ours() if isinstance(function, Pending) and not function.recorded]

    def _wakes(self) -> list[wire.Item]:
        return [wake for function in self._ours() if isinstance(function, Pending) for wake in function.wakes]

    def _keep(self, wanted: Callable[[Ours], bool]) -> None:
        """Take those of ours from the list that are not ``wanted``."""
        self.connection.run_on_commit = [
            entry for entry in self.connection.run_on_commit if not isinstance(entry[1], Ours) or wanted(entry[1])
        ]

    def _committed(self) -> None:
        ours = self._ours()
        self._keep(lambda function: False)
        for function in ours:
            function()

    def _record(self) -> list[wire.Item]:
        """INSERT what is not recorded yet; what to publish after the commit."""
        wakes = self._wakes()
        if new := self._unrecorded():
            wakes += _write(self.connection.alias, new)
            for pending in new:
                pending.recorded = True
        return wakes

    def _abandon(self) -> None:
        """Roll back, or have the database do it by closing the connection. Either empties the list."""
        try:
            self.connection.rollback()
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no more use
            with contextlib.suppress(Exception):
                self.connection.close()


def _write(using: str, pendings: Iterable[Pending]) -> list[wire.Item]:
    """INSERT the durable items; what to publish for them, and for the transient ones."""
    items = [item for pending in pendings for item in pending.items]
    durable = sorted((item for item in items if item.durable), key=attrgetter("receiver", "key"))
    to_publish: list[wire.Item] = [
        wire.Message(item.receiver, item.id, item.payload, item.countdown, item.expires)
        for item in items
        if not item.durable
    ]
    if durable:
        alone = {item.receiver for item in durable if item.alone}
        queued = _insert(using, durable)
        to_publish.extend(wire.Wake(using, receiver, pk, receiver in alone) for receiver, pk in queued)
    return to_publish


def _insert(using: str, items: list[Item]) -> list[tuple[str, int]]:
    try:
        return _outbox(using).record(items)
    except DatabaseError as error:
        exists = True
        with contextlib.suppress(Exception):
            exists = _table_exists(connections[using])
        if not exists:
            raise _missing(using) from error
        raise


@functools.lru_cache
def _outbox(using: str) -> DeliveryQuerySet:
    if not apps.is_installed("signalq"):
        raise OutboxMissing(
            'An event was captured, but INSTALLED_APPS lacks "signalq": add it and run manage.py migrate.'
        )
    from .models import Delivery

    return Delivery.objects.using(using)


def _table_exists(connection: BaseDatabaseWrapper) -> bool:
    from .models import Delivery

    # The failed statement may have broken the transaction, so ask on a connection of its own.
    fresh = connection.copy()
    try:
        return Delivery._meta.db_table in fresh.introspection.table_names()
    finally:
        fresh.close()


def _missing(using: str) -> OutboxMissing:
    option = "" if using == "default" else f" --database={using}"
    return OutboxMissing(
        f"The outbox table does not exist on database {using!r}: run manage.py migrate signalq{option}. "
        "The transaction that sent the signal was not committed without its deliveries."
    )

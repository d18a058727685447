"""3 record: what is pending in a transaction becomes rows, in one INSERT just before its commit.

A captured event waits on Django's own ``run_on_commit`` list, which Django trims when a savepoint rolls back. The
``commit`` of that connection object is wrapped, at the first capture on it: Django's Atomic calls it last of all.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.apps import apps
from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from . import publish, wire
from .exceptions import OutboxMissing

if TYPE_CHECKING:
    from .queryset import DeliveryQuerySet


@dataclass(frozen=True, slots=True)
class Item:
    """One event for one receiver, encoded: all that its row, or its message, will hold."""

    receiver: str
    durable: bool
    alone: bool
    """It must not share a message with others."""
    countdown: float
    expires: float | None
    """For a transient delivery; a durable one is asked about it at its claim."""
    event_id: uuid.UUID
    signal: str
    sender: str
    object_pk: str
    key: str
    payload: str


class Pending:
    """The items of one captured event, in the place where Django keeps functions for after the commit."""

    def __init__(self, using: str, items: list[Item]) -> None:
        self.using = using
        self.items = items
        self.recorded = False
        self.savepoint_state = 0
        # Django logs the function that failed by its __qualname__.
        self.__qualname__ = f"the capture for {', '.join(item.receiver for item in items)}"

    def __call__(self) -> None:
        """After the commit there is nothing left to do. In a TestCase, where nothing commits, record now."""
        if not self.recorded:
            self.recorded = True
            publish.send(_write(self.using, [self]))


def add(pending: Pending) -> None:
    """Record ``pending`` with the transaction that is open on its alias; at once if there is none."""
    connection = connections[pending.using]
    hooks = _hooks(connection)
    if connection.in_atomic_block and connection.commit_on_exit:
        pending.savepoint_state = connection.savepoint_state
        transaction.on_commit(pending, using=pending.using, robust=True)
        return
    # Autocommit, or a transaction that the user commits by hand. Not through on_commit, whose robust=True would
    # swallow a failing INSERT, and which is refused outside an atomic block when autocommit is off.
    wakes = _write(pending.using, [pending])
    if connection.get_autocommit():
        publish.send(wakes)
    else:
        hooks.written.extend(wakes)


class Hooks:
    """What signalq adds to one connection object: see the module's docstring."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.written: list[wire.Item] = []
        """Recorded in a transaction that is still open, to be published when it commits."""
        self._commit: Callable[[], None] = connection.commit
        self._rollback: Callable[[], None] = connection.rollback
        self._savepoint_rollback: Callable[[str], None] = connection.savepoint_rollback

    def install(self) -> Hooks:
        """Wrap the three methods on this connection object alone."""
        for name in ("commit", "rollback", "savepoint_rollback"):
            setattr(self.connection, name, getattr(self, name))
        return self

    def commit(self) -> None:
        """Record what is pending, commit, and hand the new rows to the publisher.

        Handing over here, and not in an on_commit hook, keeps it clear of somebody else's failing hook.
        """
        self.connection.validate_no_atomic_block()
        pendings = [
            function
            for _, function, *_ in self.connection.run_on_commit
            if isinstance(function, Pending) and not function.recorded
        ]
        wakes = self._record(pendings) if pendings else []
        self._commit()
        for pending in pendings:
            pending.recorded = True
        wakes, self.written = [*self.written, *wakes], []
        publish.send(wakes)

    def _record(self, pendings: list[Pending]) -> list[wire.Item]:
        try:
            return _write(self.connection.alias, pendings)
        except BaseException:
            # Django's Atomic rolls back for DatabaseError only; anything else would commit the user's data alone.
            try:
                self.rollback()
            except Exception:  # noqa: BLE001 - whatever it is, the connection is of no more use
                with contextlib.suppress(Exception):
                    self.connection.close()
            raise

    def rollback(self) -> None:
        """Forget what was written in the transaction, then roll it back."""
        self.written = []
        self._rollback()

    def savepoint_rollback(self, sid: str) -> None:
        """Drop what was captured since a savepoint made by hand, which Django's own list does not know."""
        self._savepoint_rollback(sid)
        # Django numbers the savepoints of a connection: "s<thread>_x<number>".
        number = int(sid.rpartition("x")[2])
        self.connection.run_on_commit = [
            entry
            for entry in self.connection.run_on_commit
            if not (isinstance(entry[1], Pending) and entry[1].savepoint_state >= number)
        ]


def _hooks(connection: BaseDatabaseWrapper) -> Hooks:
    hooks: Hooks | None = getattr(connection, "_signalq_hooks", None)
    if hooks is None:
        hooks = connection._signalq_hooks = Hooks(connection).install()  # type: ignore[attr-defined]
    return hooks


def _write(using: str, pendings: Iterable[Pending]) -> list[wire.Item]:
    """INSERT the durable items; what to publish for them, and for the transient ones."""
    items = [item for pending in pendings for item in pending.items]
    durable = sorted((item for item in items if item.durable), key=lambda item: (item.receiver, item.key))
    to_publish: list[wire.Item] = [
        wire.Message(item.receiver, str(item.event_id), item.payload, item.countdown, item.expires)
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

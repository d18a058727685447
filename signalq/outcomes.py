"""What an error means: an Outcome for its delivery, or just the same work once more."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from .event import Outcome, Result
from .exceptions import (
    BrokenTransaction,
    CascadeError,
    DecodeError,
    Discard,
    HandlerError,
    NewerVersion,
    ObjectGone,
    Retry,
)

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

T = TypeVar("T")

CONFLICT_TRIES = 10
"""A deadlock or serialization failure is tried again at once, this often, before it counts as a failure."""
PARKED = 60.0
"""Seconds until a delivery that this worker is too old for is offered again."""

MISTAKEN: dict[type[BaseException], str] = {}
"""What a handler may raise by mistake, and what to do instead; Celery's own Retry, as a rule."""

_ABORTED = "25P02"  # PostgreSQL: in_failed_sql_transaction
_CONFLICT_SQLSTATES = {"40001", "40P01"}  # PostgreSQL: serialization_failure, deadlock_detected
_CONFLICT_ERRNOS = {1205, 1213, 1020}  # MariaDB: lock wait timeout, deadlock, record has changed since last read
_CONFLICT_SQLITE = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED


def classify(receiver: AsyncReceiver[..., Any], tries: int, error: BaseException) -> Outcome:
    """What ``error`` in attempt number ``tries`` means for its delivery."""
    policy = receiver.policy
    for kind, way_out in MISTAKEN.items():
        if isinstance(error, kind):
            error = _explained(error, f"{receiver.name} raised {kind.__module__}.{kind.__qualname__}: {way_out}")
    match error:
        case Discard() | ObjectGone():
            return Outcome(Result.DISCARDED, error=error)
        case NewerVersion():
            return Outcome(Result.RETRY, PARKED, error, counts=False)
        case DecodeError() | CascadeError():
            return Outcome(Result.DEAD, error=error)
        case Retry() if policy.has_left(tries):
            countdown = policy.delay(tries) if error.countdown is None else error.countdown
            return Outcome(Result.RETRY, countdown, error)
        case Retry():
            return Outcome(Result.DEAD, error=error)
    retry = policy.retries(error, tries) if isinstance(error, Exception) else policy.has_left(tries)
    return Outcome(Result.RETRY, policy.delay(tries), error) if retry else Outcome(Result.DEAD, error=error)


def _explained(error: BaseException, message: str) -> HandlerError:
    explained = HandlerError(message)
    explained.__cause__ = error
    return explained


_CLOSED = (
    "closed its database connection, as close_old_connections() does too, and with it the transaction that it runs "
    "in: its writes are gone. Leave that out, or take atomic=False for the receiver."
)
_SWALLOWED = (
    "swallowed a database error, which has broken its transaction: its writes would be gone. Put the statement that "
    "may fail into its own transaction.atomic(), or take atomic=False for the receiver."
)
_DURABLE = (
    "used atomic(durable=True), which cannot be: it runs inside the transaction that marks its delivery done. Take "
    "atomic=False for the receiver, or leave durable=True out."
)


@contextlib.contextmanager
def unbroken(receiver: AsyncReceiver[..., Any], using: str) -> Iterator[None]:
    """A savepoint for the handler.

    Raises BrokenTransaction where it could not commit, although the handler raised nothing, or only what follows from
    an error before; HandlerError for a durable block in it.
    """
    connection, returned = connections[using], False
    try:
        with transaction.atomic(using=using):
            try:
                yield
            except (DatabaseError, InterfaceError, RuntimeError) as error:
                if reason := _consequence(connection, error):
                    raise reason[0](f"{receiver.name} {reason[1]}") from error
                raise
            if _is_closed(connection) or connection.get_rollback():
                raise BrokenTransaction(f"{receiver.name} {_CLOSED if _is_closed(connection) else _SWALLOWED}")
            returned = True
    except DatabaseError as error:
        if not returned:
            raise
        # Its savepoint cannot be released: of what went wrong before Django was not told.
        raise BrokenTransaction(f"{receiver.name} {_SWALLOWED}") from error


def _is_closed(connection: BaseDatabaseWrapper) -> bool:
    # The latter: it was opened again.
    return connection.closed_in_transaction or not connection.in_atomic_block


def _consequence(
    connection: BaseDatabaseWrapper, error: Exception
) -> tuple[type[BrokenTransaction | HandlerError], str] | None:
    """What ``error`` says without naming it; None for one that speaks for itself."""
    if isinstance(error, RuntimeError):
        return (HandlerError, _DURABLE) if str(error).startswith("A durable atomic block") else None
    if _is_closed(connection):
        return BrokenTransaction, _CLOSED
    if isinstance(error, TransactionManagementError) and connection.needs_rollback:
        return BrokenTransaction, _SWALLOWED
    return (BrokenTransaction, _SWALLOWED) if _sqlstate(error) == _ABORTED else None


def again_on_conflict(work: Callable[[], T]) -> T:
    """Do ``work``, which is one transaction, again when the database asks for just that."""
    for attempt in range(1, CONFLICT_TRIES):
        try:
            return work()
        except Exception as error:
            if not _is_conflict(error):
                raise
            # Apart by chance, or the same two meet again.
            time.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311
    return work()


def _is_conflict(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, DatabaseError):
            if _sqlstate(error) in _CONFLICT_SQLSTATES or (error.args and error.args[0] in _CONFLICT_ERRNOS):
                return True
            if _sqlite_code(error.__cause__) in _CONFLICT_SQLITE:
                return True
        error = error.__cause__ or error.__context__
    return False


def _sqlstate(error: BaseException) -> str | None:
    driver = error.__cause__
    return getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)


def _sqlite_code(driver: BaseException | None) -> int | None:
    code = getattr(driver, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    # Python 3.10's sqlite3 has no error codes.
    return 5 if type(driver).__module__ == "sqlite3" and "is locked" in str(driver) else None

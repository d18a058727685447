"""Checks that ask the databases: ``manage.py check --database default``, most of them with ``--deploy``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.core.checks import CheckMessage, Warning as CheckWarning
from django.db import DEFAULT_DB_ALIAS, Error as DatabaseError, connections, router, transaction

from ..receivers import AsyncReceiver, registry
from ..sources import models_of
from ..state import after

OVERDUE = 60.0
"""Seconds after which a worker or a relay should have seen to what is due."""
IDLE_LEAST = 60_000
"""Milliseconds that an atomic handler may well wait for something that is not the database."""


def outboxes() -> dict[str, list[str]]:
    """The aliases that durable receivers need an outbox on, with the receivers' names."""
    found: dict[str, list[str]] = {}
    for receiver in registry.all():
        if receiver.options.durable:
            for using in sorted(_aliases(receiver)):
                found.setdefault(using, []).append(receiver.name)
    return found


def _aliases(receiver: AsyncReceiver[..., Any]) -> set[str]:
    if receiver.options.using is not None:
        return {receiver.options.using} & set(connections.settings)
    return {router.db_for_write(model) for model in models_of(receiver.options)} or {DEFAULT_DB_ALIAS}


def _check(function: Callable[[str, list[str]], Iterator[CheckMessage]]) -> Callable[..., list[CheckMessage]]:
    """Ask ``function`` about each alias that the check was given and that has, or needs, an outbox."""

    def check(app_configs: Any = None, databases: Iterable[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
        found: list[CheckMessage] = []
        needed = outboxes()
        for using in databases or ():
            # One that cannot be reached is not for a check to say, and never to die of.
            with contextlib.suppress(DatabaseError):
                found += function(using, needed[using]) if using in needed else ()
        return found

    check.__name__, check.__doc__ = function.__name__, function.__doc__
    return check


@_check
def check_outboxes(using: str, receivers: list[str]) -> Iterator[CheckMessage]:
    """W007: no outbox where events will be captured. A warning, as ``migrate``, the way out, checks first."""
    from ..models import Delivery

    if Delivery._meta.db_table in connections[using].introspection.table_names():
        return
    option = "" if using == DEFAULT_DB_ALIAS else f" --database={using}"
    hint = f"manage.py migrate signalq{option}"
    if not router.allow_migrate_model(using, Delivery):
        hint = f'A router of DATABASE_ROUTERS keeps the app "signalq" from {using!r}: allow it there, then {hint}'
    yield CheckWarning(
        f"The outbox table is missing on database {using!r}: saving what {receivers[0]} listens to will fail there.",
        hint=hint,
        id="signalq.W007",
    )


@_check
def check_overdue(using: str, receivers: list[str]) -> Iterator[CheckMessage]:
    """W015: deliveries that nobody sees to."""
    from ..models import Delivery

    outbox = Delivery.objects.using(using)
    late = [
        name
        for name, state in outbox.lanes_due(list(registry))
        if outbox.filter(receiver=name, state=state, due_at__lte=after(-OVERDUE)).exists()
    ]
    if late:
        yield CheckWarning(
            f"Deliveries on {using!r} are overdue for more than a minute: of {', '.join(sorted(set(late)))}.",
            hint="Does a worker run for their queues, and a relay in it? manage.py signalq status --probe says.",
            id="signalq.W015",
        )


@_check
def check_isolation(using: str, receivers: list[str]) -> Iterator[CheckMessage]:
    """W013: PostgreSQL's transactions are stricter than READ COMMITTED."""
    if connections[using].vendor != "postgresql":
        return
    with transaction.atomic(using=using):  # outside one Django's own setting does not show
        ((level,),) = _ask(using, "SHOW transaction_isolation")
    if level not in ("read committed", "read uncommitted"):
        yield CheckWarning(
            f"Transactions on {using!r} run at {level.upper()}: deliveries that run together make each other fail. "
            "signalq repeats them, slowly where there are many, and a handler sees rows as they were at its start.",
            hint="Leave isolation_level out of OPTIONS, and default_transaction_isolation at read committed.",
            id="signalq.W013",
        )


@_check
def check_idle_timeout(using: str, receivers: list[str]) -> Iterator[CheckMessage]:
    """W014: what PostgreSQL does about a transaction whose worker does nothing."""
    if connections[using].vendor != "postgresql":
        return
    name = "idle_in_transaction_session_timeout"
    ((setting,),) = _ask(using, "SELECT setting FROM pg_settings WHERE name = %s", name)
    milliseconds = int(setting)
    if milliseconds >= IDLE_LEAST:
        return
    why = (
        f"is {milliseconds / 1000:g} s: an atomic handler that waits longer for something else, an HTTP answer, "
        "loses its transaction, in every attempt"
        if milliseconds
        else "is off: a worker that freezes in a handler keeps its locks, and the next attempt waits for them"
    )
    yield CheckWarning(
        f"PostgreSQL's {name} on {using!r} {why}.",
        hint=f'For the workers: "OPTIONS": {{"options": "-c {name}=600000"}}, more than any handler is idle.',
        id="signalq.W014",
    )


def _ask(using: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


ALWAYS = (check_outboxes,)
FOR_DEPLOYMENT = (check_overdue, check_isolation, check_idle_timeout)

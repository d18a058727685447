"""The INSERT of many deliveries, in the form that each database takes fastest."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.db import NotSupportedError, connections

from . import conf
from .state import State, moment

if TYPE_CHECKING:
    from .outbox import Item

ROWS = 1_000
"""Rows in one INSERT, at the most: beyond it nothing is gained, and SQLite takes 32,766 parameters."""
CHARACTERS = 4 << 20
"""Of the events in one INSERT: MariaDB takes 16 MB by default, and nothing is gained beyond it."""
FEW = 5
"""Up to this many rows PostgreSQL plans VALUES faster than it unpacks texts."""

_COLUMNS = (
    *("event_id", "receiver", "signal", "sender", "object_pk", "key", "state", "payload", "due_at"),
    *("attempt", "attempts_before", "lost_leases", "repeats", "errors", "created_at", "finished_at"),
)


def insert(using: str, items: Sequence[Item]) -> Iterator[tuple[str, int]]:
    """INSERT ``items``; (receiver, id) of those that are queued at once, in the order of their ids."""
    connection = connections[using]
    if not connection.features.can_return_rows_from_bulk_insert:
        raise NotSupportedError(
            f"Database {using!r} ({connection.display_name}) has no INSERT ... RETURNING: "
            "signalq needs PostgreSQL, MariaDB 10.6 or SQLite 3.35, or later."
        )
    for portion in _portions(items):
        texts = _from_texts(portion) if connection.vendor == "postgresql" and len(portion) > FEW else None
        rows, parameters = texts or _values(using, portion)
        with connection.cursor() as cursor:
            cursor.execute(f"{_into(using)} {rows} RETURNING receiver, id, state", parameters)
            returned = cursor.fetchall()
        yield from sorted((row[:2] for row in returned if row[2] == State.QUEUED), key=lambda row: row[1])


def _portions(items: Sequence[Item]) -> Iterator[list[Item]]:
    portion: list[Item] = []
    size = 0
    for item in items:
        if portion and (len(portion) == ROWS or size + len(item.payload) > CHARACTERS):
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += len(item.payload)
    yield portion


def _state(item: Item) -> str:
    return State.WAITING.value if item.countdown > 0 else State.QUEUED.value


def _due_in(item: Item, grace: float) -> float:
    return item.countdown if item.countdown > 0 else grace


def _from_texts(items: Sequence[Item]) -> tuple[str, list[str]] | None:
    """A parameter for each column, its values a line each; None if one of them has a line break in it.

    The driver takes longer for thousands of parameters than the database for their rows. No value should have a line
    break, as columns are printable and events are JSON; it would move all values after it to other rows.
    """
    grace = conf.current().GRACE
    columns = [
        *("\n".join([getattr(item, name) for item in items]) for name in _TEXTS),
        "\n".join([_state(item) for item in items]),
        "\n".join([str(_due_in(item, grace)) for item in items]),
    ]
    is_right = all(column.count("\n") == len(items) - 1 for column in columns)
    return (_FROM_TEXTS, columns) if is_right else None


_TEXTS = ("id", "receiver", "signal", "sender", "object_pk", "key", "payload")
_NOW = "STATEMENT_TIMESTAMP()"  # as Django's Now()
_FROM_TEXTS = (
    "SELECT id::uuid, receiver, signal, sender, object_pk, key, state, payload,"  # noqa: S608 - nothing is put in
    f" {_NOW} + due_in::double precision * '1 second'::interval, 0, 0, 0, 0, '[]', {_NOW}, NULL"
    f" FROM unnest({', '.join(['string_to_array(%s, chr(10))'] * 9)})"
    f" AS item({', '.join(_TEXTS)}, state, due_in)"
)


def _values(using: str, items: Sequence[Item]) -> tuple[str, list[Any]]:
    grace, as_text = conf.current().GRACE, connections[using].features.has_native_uuid_field
    sql, due_parameters = _values_sql(using, tuple([_due_in(item, grace) for item in items]))
    parameters: list[Any] = []
    for item, due in zip(items, due_parameters, strict=True):
        # As UUIDField has it; a text is spared the driver's own way from a UUID to one.
        event_id = item.id if as_text else item.id.replace("-", "")
        parameters += [event_id, item.receiver, item.signal, item.sender, item.object_pk, item.key]
        parameters += [_state(item), item.payload, *due]
    return sql, parameters


@functools.lru_cache(maxsize=20)  # a hundred kilobytes for each that has a thousand rows
def _values_sql(using: str, due_in: tuple[float, ...]) -> tuple[str, list[tuple[Any, ...]]]:
    """VALUES for rows that are due in so many seconds, and the parameters of those times."""
    now, _ = moment(using)
    moments = [moment(using, seconds) for seconds in due_in]
    rows = [f"(%s,%s,%s,%s,%s,%s,%s,%s,{due_sql},0,0,0,0,'[]',{now},NULL)" for due_sql, _ in moments]
    return f"VALUES {','.join(rows)}", [parameters for _, parameters in moments]


@functools.lru_cache
def _into(using: str) -> str:
    from .models import Delivery

    quote = connections[using].ops.quote_name
    return f"INSERT INTO {quote(Delivery._meta.db_table)} ({','.join(map(quote, _COLUMNS))})"

# ruff: noqa: S608 - names of tables and columns; every value is a parameter
"""Bounded looks at an outbox, for people: each reads an end of an index, so that a million rows cost what a few do.

What is not finished is counted, up to a cap. What is finished is a million rows: of it the newest are read, all of a
receiver that has few, and of the rest a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections, router
from django.db.models.functions import Now

from ..models import Delivery
from ..state import State

PROBE = "signalq.probe"
"""In the place of a receiver, in rows that are no deliveries; see probe.py."""
CAP = 100_000
"""Deliveries of all receivers that are counted one by one; they share it, so a share may be less."""
LOOKED_INTO = 500
"""Deliveries of a receiver in one state of which it is seen whether they were attempted before."""
NEWEST = 2_000
"""Of what was done last, whoever's it is."""
FEW = 100
"""A receiver with no more done deliveries than this has all of them read."""
SAMPLE = 1_000
"""Row numbers, evenly apart, that stand for a day."""
LANES_AT_ONCE = 300
"""SQLite puts at most 500 queries into one."""
DAY = timedelta(days=1)
COUNTED = (State.WAITING, State.QUEUED, State.RUNNING, State.DEAD)

Lane = tuple[str, State]
"""The deliveries of one receiver in one state."""


class Count(NamedTuple):
    """How many deliveries there are in a lane."""

    number: int
    later: int
    """Of them, not due yet."""
    retrying: int
    """Of them, attempted before."""
    capped: bool
    """There are more than were counted."""


class Done(NamedTuple):
    """A delivery that is done."""

    receiver: str
    created_at: datetime
    finished_at: datetime


def aliases() -> list[str]:
    """The aliases that have an outbox. Raises DatabaseError or InterfaceError for one that does not answer."""
    return [using for using in connections if has_outbox(using)]


def has_outbox(using: str) -> bool:
    """Whether there is one on this alias. Raises DatabaseError or InterfaceError if it does not answer."""
    if not router.allow_migrate_model(using, Delivery):
        return False
    return Delivery._meta.db_table in connections[using].introspection.table_names()


def names(using: str) -> list[str]:
    """Every receiver that something is recorded for: a jump through the index for each."""
    table = _table(using)
    rows = _rows(
        using,
        f"WITH RECURSIVE names (name) AS (SELECT MIN(receiver) FROM {table} UNION ALL"
        f" SELECT (SELECT MIN(receiver) FROM {table} WHERE receiver > names.name) FROM names"
        " WHERE names.name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL",
    )
    return [name for (name,) in rows if name != PROBE]


def now(using: str) -> datetime:
    """The database's time."""
    return _moments(using)(_rows(using, f"SELECT {_now(using)}")[0][0])


def earliest(using: str, receivers: Iterable[str]) -> dict[Lane, datetime | None]:
    """The lanes that hold anything, with what is due first in each; None for dead ones, which are never due."""
    lanes = [(receiver, state) for receiver in receivers for state in COUNTED]
    moment, table = _moments(using), _table(using)
    one = f"SELECT due_at FROM {table} WHERE receiver = %s AND state = %s ORDER BY due_at LIMIT 1"
    rows = _of_lanes(using, lanes, lambda number: f"SELECT {number}, due_at FROM ({one}) lane_{number}")
    return {lanes[number]: due_at and moment(due_at) for number, due_at in rows}


def counts(using: str, lanes: Sequence[Lane]) -> dict[Lane, Count]:
    """How many deliveries there are in each of ``lanes``, which hold something."""
    cap, table, now_sql = share(len(lanes)), _table(using), _now(using)
    # Of the index alone, where the database can; whether it was attempted before is in the row.
    some = f"SELECT due_at FROM {table} WHERE receiver = %s AND state = %s ORDER BY due_at LIMIT {cap + 1}"
    later = f"SUM(CASE WHEN due_at > {now_sql} THEN 1 ELSE 0 END)"
    rows = _of_lanes(using, lanes, lambda lane: f"SELECT {lane}, COUNT(*), {later} FROM ({some}) lane_{lane}")
    tried = [lane for lane in lanes if lane[1] in (State.WAITING, State.QUEUED)]
    retrying = _retrying(using, tried, min(cap, LOOKED_INTO))
    return {
        lanes[lane]: Count(min(number, cap), int(later or 0), retrying.get(lanes[lane], 0), number > cap)
        for lane, number, later in rows
    }


def _retrying(using: str, lanes: Sequence[Lane], limit: int) -> dict[Lane, int]:
    """How many of the first deliveries of each of ``lanes`` were attempted before."""
    first = (
        f"SELECT attempt, attempts_before FROM {_table(using)}"
        f" WHERE receiver = %s AND state = %s ORDER BY due_at LIMIT {limit}"
    )
    again = "SUM(CASE WHEN attempt > attempts_before THEN 1 ELSE 0 END)"
    rows = _of_lanes(using, lanes, lambda lane: f"SELECT {lane}, {again} FROM ({first}) lane_{lane}")
    return {lanes[lane]: int(number or 0) for lane, number in rows}


def share(lanes: int) -> int:
    """What of CAP each of so many lanes has: a round number, so that "10,000+" can be said; 1,000 at the least."""
    cap = CAP
    for divisor in (2, 2.5, 2, 2, 2.5, 2):
        if cap * lanes <= CAP:
            break
        cap = int(cap / divisor)
    return cap


def newest_done(using: str) -> list[Done]:
    """What was done last, of all receivers, the newest first."""
    rows = _done(using).order_by("-finished_at")
    return [Done(*row) for row in rows.values_list(*Done._fields)[:NEWEST]]


def few_done(using: str, receivers: Sequence[str]) -> dict[str, list[Done]]:
    """All that is done of those of ``receivers`` that have up to FEW."""
    table, moment = _table(using), _moments(using)
    one = f"SELECT created_at, finished_at FROM {table} WHERE receiver = %s AND state = %s LIMIT {FEW + 1}"
    lanes = [(receiver, State.DONE) for receiver in receivers]
    found: dict[str, list[Done]] = {receiver: [] for receiver in receivers}
    for number, *times in _of_lanes(
        using, lanes, lambda number: f"SELECT {number}, lane_{number}.* FROM ({one}) lane_{number}"
    ):
        found[receivers[number]].append(Done(receivers[number], *map(moment, times)))
    return {receiver: done for receiver, done in found.items() if len(done) <= FEW}


def sample_done(using: str, since: datetime) -> tuple[list[Done], int]:
    """A sample of what was done since then, and for how many deliveries each of it stands.

    Rows are numbered in the order of their creation, so numbers that are evenly apart are a fair sample. Where they are
    few enough it is all of them.
    """
    first = list(_done(using).filter(finished_at__gte=since).order_by("finished_at").values_list("pk", flat=True)[:FEW])
    last = Delivery.objects.using(using).order_by("-pk").values_list("pk", flat=True).first()
    if not first or last is None:
        return [], 1
    step = max(-(-(last - min(first) + 1) // SAMPLE), 1)
    rows = _done(using).filter(pk__in=range(last, min(first) - 1, -step), finished_at__gte=since)
    return [Done(*row) for row in rows.values_list(*Done._fields)], step


def _done(using: str) -> Any:
    return Delivery.objects.using(using).filter(state=State.DONE)


def _of_lanes(using: str, lanes: Sequence[Lane], arm: Callable[[int], str]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(lanes), LANES_AT_ONCE):
        numbers = range(start, min(start + LANES_AT_ONCE, len(lanes)))
        parameters = [part for number in numbers for part in (lanes[number][0], lanes[number][1].value)]
        rows += _rows(using, " UNION ALL ".join(map(arm, numbers)), parameters)
    return rows


def _rows(using: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def _table(using: str) -> str:
    return connections[using].ops.quote_name(Delivery._meta.db_table)


def _now(using: str) -> str:
    query = Delivery.objects.using(using).query
    sql, _ = query.get_compiler(using).compile(Now())
    return str(sql)


def _moments(using: str) -> Callable[[Any], datetime]:
    """What makes a datetime of a column's value, which each database has in its own form."""
    connection, column = connections[using], Delivery._meta.get_field("due_at").cached_col
    converters = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]

    def converted(value: Any) -> datetime:
        for converter in converters:
            value = converter(value, column, connection)
        return value  # type: ignore[no-any-return]

    return converted

"""The outbox in partitions, tried: docs/scale.md says how, and what it is good for. PostgreSQL only."""

from __future__ import annotations

from typing import Any

from django.db import connection

from benchmarks.inside.outbox import _milliseconds, grow, outbox_times

INDEXES = ("receiver, state, due_at", "state, finished_at", "key, finished_at, id")
KEYS = {"range": "id", "hash": "id", "time": "id, created_at"}
"""The primary key, which has to hold what the table is partitioned by."""


def partition(by: str, number: int, rows: int) -> dict[str, Any]:
    """A partitioned table in the outbox's place, with the same columns and indexes: for about `rows` rows."""
    columns = "LIKE signalq_whole INCLUDING DEFAULTS INCLUDING IDENTITY"
    way = {"range": "RANGE (id)", "hash": "HASH (id)", "time": "RANGE (created_at)"}[by]
    _sql("ALTER TABLE signalq_delivery RENAME TO signalq_whole")
    _sql(f"CREATE TABLE signalq_delivery ({columns}, PRIMARY KEY ({KEYS[by]})) PARTITION BY {way}")
    for index in INDEXES:
        _sql(f"CREATE INDEX ON signalq_delivery ({index})")
    for part in range(number):
        values = f"WITH (MODULUS {number}, REMAINDER {part})" if by == "hash" else _range(by, part, number, rows)
        _sql(f"CREATE TABLE signalq_part_{part} PARTITION OF signalq_delivery FOR VALUES {values}")
    return {}


def _range(by: str, part: int, number: int, rows: int) -> str:
    """The last is open, so that what is measured beyond `rows` has a place."""
    step = rows // (number - 1)

    def limit(at: int) -> str:
        return str(at * step) if by == "range" else f"now() + interval '{at - number + 1} hours'"

    return f"FROM ({limit(part) if part else 'MINVALUE'}) TO ({limit(part + 1) if part < number - 1 else 'MAXVALUE'})"


def unpartition() -> dict[str, Any]:
    _sql("DROP TABLE signalq_delivery")
    _sql("ALTER TABLE signalq_whole RENAME TO signalq_delivery")
    return {}


def times(rows: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of the outbox's statements with `rows` rows in it."""
    from signalq.models import Delivery

    grow(rows)
    outbox = Delivery.objects.using("default")
    receiver = str(outbox.values_list("receiver", flat=True)[0])
    measured = [outbox_times() for _ in range(rounds)]
    looks = [_milliseconds(lambda: outbox.lanes_due([receiver])) for _ in range(rounds)]
    return {
        "INSERT of 1,000, ms": [each["insert"] for each in measured],
        "claim of 100, ms": [each["claim"] for each in measured],
        "relay's batch of 1,000, ms": [each["relay"] for each in measured],
        "a relay's look, ms": looks,
    }


def rid(parts: int) -> dict[str, Any]:
    """Seconds until half of all rows are gone: those done, pruned as the relay does it, or half of the `parts`."""
    from signalq.models import Delivery

    if parts:
        drop = ", ".join(f"signalq_part_{number}" for number in range(parts // 2))
        return {"seconds": _milliseconds(lambda: _sql(f"DROP TABLE {drop}")) / 1000}
    outbox = Delivery.objects.using("default")

    def prune() -> None:
        while outbox.prune(0, 1_000) == 1_000:
            pass

    return {"seconds": _milliseconds(prune) / 1000}


def _sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)

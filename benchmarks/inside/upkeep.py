"""An outbox through which deliveries flow, with and without vacuum. PostgreSQL only."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from typing import Any

import psycopg
from django.db import connection
from django.db.models.functions import Now

from benchmarks.inside.outbox import _milliseconds, grow
from benchmarks.inside.saving import save_many
from benchmarks.inside.server import sizes, spent, updates

PORTION, CHUNK = 1_000, 100


def churn(
    at_rest: int, flowing: int, vacuum_at: float = 0, left_open: bool = False, fillfactor: int = 100
) -> dict[str, Any]:
    """Record, claim and settle `flowing` deliveries in an outbox with `at_rest` others, and prune as many.

    `vacuum_at`: vacuum whenever this part of the rows is dead, as autovacuum does when it looks. `left_open`: with
    somebody's transaction that sees the outbox as it was at the start.
    """
    _sql(f"ALTER TABLE signalq_delivery SET (autovacuum_enabled = false, fillfactor = {fillfactor})")
    grow(at_rest)
    before, wal = updates(), spent()["wal"]
    claims: list[float] = []
    looks: list[float] = []
    dead = vacuums = 0
    with _left_open() if left_open else contextlib.nullcontext():
        for _ in range(flowing // PORTION):
            looks.append(_record_claim_settle(claims))
            dead += 3 * PORTION  # each row is written anew by the claim and by "done", and then pruned
            if vacuum_at and dead > vacuum_at * at_rest:
                dead, vacuums = 0, vacuums + 1
                _sql("VACUUM signalq_delivery")
        wal, after = spent()["wal"] - wal, updates()
    _sql("ALTER TABLE signalq_delivery RESET (autovacuum_enabled, fillfactor)")
    return {
        "vacuums": vacuums,
        "a claim of 100 at first, ms": statistics.median(claims[:50]),
        "at last, ms": statistics.median(claims[-50:]),
        "a relay's look at first, ms": statistics.median(looks[:5]),
        "its look at last, ms": statistics.median(looks[-5:]),
        "table, MiB": sizes()["table"],
        "indexes, MiB": sizes()["indexes"],
        "WAL a delivery, bytes": wal / flowing,
        "HOT updates": (after["hot"] - before["hot"]) / (after["updates"] - before["updates"]),
    }


def _record_claim_settle(claims: list[float]) -> float:
    """A thousand deliveries; milliseconds of each claim of a hundred into `claims`, and those of a relay's look."""
    from signalq.models import Delivery

    outbox = Delivery.objects.using("default")
    last = outbox.order_by("-pk").values_list("pk", flat=True).first() or 0
    save_many(PORTION)
    ids = list(outbox.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True))
    receiver = str(outbox.filter(pk=ids[0]).values_list("receiver", flat=True)[0])
    look = _milliseconds(lambda: outbox.lanes_due([receiver]))
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        claims.append(_milliseconds(lambda chunk=chunk: outbox.claim([receiver], chunk, 20.0)))  # type: ignore[misc]
        outbox.filter(pk__in=chunk).update(state="done", due_at=None, finished_at=Now())
    outbox.prune(0, PORTION)
    return look


@contextlib.contextmanager
def _left_open() -> Iterator[None]:
    parameters = connection.get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(name, None)
    with psycopg.connect(**parameters) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM signalq_delivery")
        yield
        other.rollback()


def vacuum_seconds(rows: int, dead: int, cost_delay: float) -> dict[str, Any]:
    """One vacuum of an outbox of `rows`, after `dead` of its rows have been written anew; its CPU, and bytes a row."""
    grow(rows)
    size = sum(sizes().values()) * 2**20 / rows
    _sql("ALTER TABLE signalq_delivery SET (autovacuum_enabled = false)")
    newest = f"SELECT id FROM signalq_delivery ORDER BY id DESC LIMIT {dead}"  # noqa: S608 - a number
    _sql(f"UPDATE signalq_delivery SET due_at = due_at + interval '1 second' WHERE id IN ({newest})")  # noqa: S608
    _sql("CHECKPOINT")
    _sql(f"SET vacuum_cost_delay = {cost_delay}")
    before = spent()["database"]
    seconds = _milliseconds(lambda: _sql("VACUUM signalq_delivery")) / 1000
    cpu = spent()["database"] - before
    _sql("RESET vacuum_cost_delay")
    _sql("ALTER TABLE signalq_delivery RESET (autovacuum_enabled)")
    return {"seconds": seconds, "cpu": cpu, "size": size}


def _sql(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None

"""Relays: signalq's, one that loops over `delay`, and django-celery-outbox's, each until nothing is due."""

from __future__ import annotations

import time
from typing import Any

from django.db import connection, transaction

BATCH = 500


def relay_ours(count: int) -> dict[str, Any]:
    relay_fill(count)
    return relay_sweep()


def relay_sweep(batch: int | None = None) -> dict[str, Any]:
    """Until nothing is due any more, by `batch` rows if given; other relays may do the same."""
    from signalq import relay as module
    from signalq.models import Delivery

    module.BATCH = batch or module.BATCH
    relay = module.Relay(["default"])
    started, taken = time.perf_counter(), 0
    while Delivery.objects.filter(state=Delivery.State.WAITING).exists():
        taken += relay.sweep("default")
    return {"rate": taken / (time.perf_counter() - started), "taken": taken}


def relay_fill(count: int) -> dict[str, Any]:
    """`count` rows whose time has come, as after a countdown or a failure: none of them has a message."""
    from benchmarks.inside.saving import save_many
    from signalq.models import Delivery

    save_many(1)
    columns = [field.column for field in Delivery._meta.fields if field.column != "id"]
    names = ", ".join(columns)
    with connection.cursor() as cursor:
        # One to be copied: what warmed up has left others.
        cursor.execute("DELETE FROM signalq_delivery WHERE id > (SELECT min(id) FROM signalq_delivery)")
        cursor.execute("UPDATE signalq_delivery SET state = 'waiting', due_at = now()")
        cursor.execute(
            f"INSERT INTO signalq_delivery ({names}) SELECT {names}"  # noqa: S608 - the model's own
            f" FROM signalq_delivery, generate_series(2, {count})"
        )
        cursor.execute("ANALYZE signalq_delivery")
    return {}


def relay_by_hand(count: int) -> dict[str, Any]:
    """The usual one: lock a batch of a table of ids, call `delay` for each, delete them, commit."""
    from celery import current_app

    delay = current_app.tasks["benchmarks.handle"].delay
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bench_outbox")
        cursor.execute("CREATE TABLE bench_outbox AS SELECT id FROM generate_series(1, %s) id", [count])
        cursor.execute("ALTER TABLE bench_outbox ADD PRIMARY KEY (id)")
    started, taken = time.perf_counter(), 0
    while ids := _send_batch(delay):
        taken += ids
    seconds = time.perf_counter() - started
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE bench_outbox")
    return {"rate": taken / seconds, "taken": taken}


def _send_batch(delay: Any) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT id FROM bench_outbox ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED", [BATCH])
        ids = [row[0] for row in cursor.fetchall()]
        for pk in ids:
            delay(pk)
        cursor.execute("DELETE FROM bench_outbox WHERE id = ANY(%s)", [ids])
    return len(ids)


def prune_all() -> dict[str, Any]:
    """All that `relay_fill` made, as if it were done and old."""
    from signalq.models import Delivery

    with connection.cursor() as cursor:
        # One to be copied: what warmed up has left others.
        cursor.execute("DELETE FROM signalq_delivery WHERE id > (SELECT min(id) FROM signalq_delivery)")
        cursor.execute("UPDATE signalq_delivery SET state = 'done', due_at = NULL, finished_at = now()")
    outbox, started, pruned = Delivery.objects.using("default"), time.perf_counter(), 0
    while number := outbox.prune(0, 1_000):
        pruned += number
    return {"rate": pruned / (time.perf_counter() - started)}

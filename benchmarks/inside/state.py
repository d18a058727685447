"""The database of a variant: made, emptied, looked at, removed."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

from django.core.management.color import no_style
from django.db import connection, models

from benchmarks.shop.models import Effect, Stock, Thing
from benchmarks.shop.work import STOCKS

_KEPT = {"django_migrations", "django_content_type", "auth_permission"}


def create() -> dict[str, Any]:
    """Make the database, anew if a run before left one."""
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    return _versions()


def _versions() -> dict[str, Any]:
    answer: dict[str, Any] = {"version": str(connection.get_database_version()), "commit ms": _commit_milliseconds()}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for name in ("fsync", "synchronous_commit", "shared_buffers"):
                cursor.execute(f"SHOW {name}")
                answer[name] = cursor.fetchone()[0]
    return answer


def _commit_milliseconds() -> float:
    """One INSERT and its commit, the median: on a busy or slow disk all that is committed one by one is alike."""
    taken = []
    for _ in range(100):
        started = time.perf_counter()
        Effect.objects.create(thing_id=0, at=0)
        taken.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(taken), 2)


def destroy() -> dict[str, Any]:
    connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)
    return {}


def empty() -> dict[str, Any]:
    """Every table without a row, but for the stocks."""
    tables = [name for name in connection.introspection.table_names() if name not in _KEPT]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(map(connection.ops.quote_name, tables))} CASCADE")
    else:
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables))
    Stock.objects.bulk_create(Stock(pk=number) for number in range(1, STOCKS + 1))
    return {}


def vacuum() -> dict[str, Any]:
    """What autovacuum would do at a moment of its own choice."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    return {}


def done(work: str) -> dict[str, Any]:
    """How many handlers have finished."""
    if work == "shared":
        return {"done": Stock.objects.aggregate(sum=models.Sum("count"))["sum"]}
    return {"done": Effect.objects.count()}


def verdict(expected: int) -> dict[str, Any]:
    """Things without an effect, and effects beyond the first of each."""
    effects = Effect.objects.count()
    handled = Effect.objects.values("thing_id").distinct().count()
    return {"missing": expected - handled, "doubles": effects - handled, "things": Thing.objects.count()}


def first_effects() -> dict[str, Any]:
    """When the first handler of each thing began."""
    rows = Effect.objects.order_by("thing_id", "at").values_list("thing_id", "at")
    return {str(pk): next(group)[1] for pk, group in itertools.groupby(rows, key=lambda row: row[0])}

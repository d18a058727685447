"""Many rows at once: deliveries copied inside the database, a million in some seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections

from signalq.models import Delivery

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGITS = " UNION ALL ".join(f"SELECT {digit} AS n" for digit in range(10))


def multiply(alias: str, number: int, changes: Mapping[str, str] | None = None) -> None:
    """`number` copies of the first delivery; `changes` maps columns to SQL, in which `n` counts them from 0."""
    connection = connections[alias]
    columns = [field.column for field in Delivery._meta.fields if field.column != "id"]
    quote = connection.ops.quote_name
    values = [(changes or {}).get(column, quote(column)) for column in columns]
    power = len(str(max(number - 1, 1)))
    tens = ", ".join(f"({DIGITS}) d{place}" for place in range(power))
    counted = " + ".join(f"d{place}.n * {10**place}" for place in range(power))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO signalq_delivery ({', '.join(map(quote, columns))})"
            f" SELECT {', '.join(values)} FROM (SELECT {counted} AS n FROM {tens}) numbers,"
            " (SELECT * FROM signalq_delivery ORDER BY id LIMIT 1) one"
            f" WHERE n < {number}"
        )


def analyse(alias: str) -> None:
    """Let the planner know what is there."""
    connection = connections[alias]
    statement = {"mysql": "ANALYZE TABLE signalq_delivery", "sqlite": "ANALYZE"}.get(
        connection.vendor, "VACUUM ANALYZE signalq_delivery"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)

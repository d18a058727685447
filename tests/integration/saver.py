"""A process that saves: the web process of these tests. It takes one JSON object a line and answers with one.

{"do": "save_each", "count": 10}
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import django
from django.db import connection, transaction


class UndoneError(Exception):
    """Leaves an atomic block by the back door."""


class InsertCounter:
    """Counts the INSERT statements into the outbox."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "INSERT" in sql.upper() and "signalq_delivery" in sql:
            self.count += 1
        return execute(sql, params, many, context)


def save_in_one_transaction(count: int, rolled_back: int) -> dict[str, Any]:
    """`count` saves in one transaction, amid them a savepoint with `rolled_back` more that is undone."""
    counter = InsertCounter()
    started = time.perf_counter()
    with connection.execute_wrapper(counter), transaction.atomic():
        save(count // 2, "kept")
        try:
            with transaction.atomic():
                save(rolled_back, "rolled back")
                raise UndoneError
        except UndoneError:
            pass
        save(count - count // 2, "kept")
    return {"inserts": counter.count, "seconds": time.perf_counter() - started}


def save(count: int, name: str) -> None:
    from tests.testapp.models import Author

    for _ in range(count):
        Author(name=name).save()


def save_each(count: int) -> dict[str, Any]:
    """`count` transactions of one save; how long each took, in seconds."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        with transaction.atomic():
            save(1, "kept")
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def save_held(count: int) -> dict[str, Any]:
    from tests.testapp.models import Letter

    with transaction.atomic():
        for _ in range(count):
            Letter().save()
    return {}


def save_rows(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of any of the test app's models, in one transaction."""
    from django.apps import apps

    with transaction.atomic():
        for row in rows:
            apps.get_model("testapp", model)(**row).save()
    return {}


def save_traced(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """As a request does whose view is traced."""
    from opentelemetry import trace

    with trace.get_tracer("web").start_as_current_span("GET /"):
        return save_rows(model, rows)


COMMANDS = {
    function.__name__: function for function in (save_in_one_transaction, save_each, save_held, save_rows, save_traced)
}


def main() -> None:
    django.setup()
    connection.ensure_connection()
    print(json.dumps({"ready": os.getpid()}), flush=True)  # noqa: T201
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(COMMANDS[request.pop("do")](**request)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

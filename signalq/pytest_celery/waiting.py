"""What a test waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.db import DEFAULT_DB_ALIAS, connections

if TYPE_CHECKING:
    from signalq.models import Delivery

POLL = 0.05
"""Seconds between two looks."""


def wait_until_settled(using: str = DEFAULT_DB_ALIAS, timeout: float = 30) -> list[Delivery]:
    """Wait until every delivery in the outbox of ``using`` is done, dead or discarded; all of them, in their order.

    Raises AssertionError after ``timeout`` seconds, with what is still open; RuntimeError inside a transaction, where
    no worker sees what the test has saved.
    """
    from signalq.models import Delivery

    if connections[using].in_atomic_block:
        raise RuntimeError(
            "A worker sees only what is committed. Mark the test with @pytest.mark.django_db(transaction=True); "
            "with unittest take TransactionTestCase."
        )
    deadline = time.monotonic() + timeout
    while True:
        rows = list(Delivery.objects.using(using).order_by("pk"))
        is_open = [row for row in rows if row.finished_at is None]
        if not is_open:
            return rows
        if time.monotonic() > deadline:
            raise AssertionError(f"not settled after {timeout:g} s: {'; '.join(map(_told, is_open))}")
        time.sleep(POLL)


def _told(row: Delivery) -> str:
    last = f", {row.errors[-1]['type']}: {row.errors[-1]['message']}" if row.errors else ""
    return f"{row}, attempt {row.attempt}{last}"

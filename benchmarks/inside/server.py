"""What the database server has taken so far: its processor, its log, its updates. PostgreSQL on this machine only."""

from __future__ import annotations

from typing import Any

import psutil
from django.db import connection


def spent() -> dict[str, Any]:
    """Seconds of CPU of all the server's processes, those that have ended too; bytes of its write-ahead log."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_current_wal_lsn() - '0/0'")
        pid, written = cursor.fetchone()
    postmaster = psutil.Process(pid).parent()
    assert postmaster is not None  # noqa: S101
    times = postmaster.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system
    return {"database": seconds, "wal": float(written)}


def updates() -> dict[str, Any]:
    """Updates of the outbox since its statistics began, and how many of them were HOT: without a new index entry."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        cursor.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'signalq_delivery'")
        number, hot = cursor.fetchone()
    return {"updates": number, "hot": hot}


def sizes() -> dict[str, Any]:
    """MiB of the outbox and of its indexes."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_table_size('signalq_delivery') / 1048576.0, pg_indexes_size('signalq_delivery') / 1048576.0"
        )
        table, indexes = cursor.fetchone()
    return {"table": float(table), "indexes": float(indexes)}

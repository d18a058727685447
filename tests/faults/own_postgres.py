"""A PostgreSQL of the test's own, with the tables of the processes, to be restarted and starved."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import psycopg
from django.db import DatabaseError, connections
from django.utils import timezone

from project.embedded import EmbeddedPostgres
from signalq.models import Delivery
from tests import services
from tests.integration.harness import ROOT, wait_for

if TYPE_CHECKING:
    from pathlib import Path

ALIAS = "own"
"""What the test calls it; to the processes it is their default database."""
MODES = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "killed": signal.SIGKILL}
"""How a postmaster is told to go: break connections off; and with no checkpoint, to recover from the log."""
FILE_LIMIT = 17 * 1024 * 1024
"""Bytes: room for the segments of the write-ahead log, and for the outbox once it is filled up to here."""


class OwnPostgres(EmbeddedPostgres):
    """Under the same address after each restart."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.host = str(directory / "data")

    def prepare(self, env: dict[str, str]) -> None:
        """Start it, make the tables, point the processes at it by `env`, and the test by the alias `own`."""
        self.start()
        with psycopg.connect(host=self.host, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {services.database_name()}")
        env[services.POSTGRES] = f"postgres://postgres@{quote(self.host, safe='')}/postgres"
        command = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity=0"]
        subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, check=True, timeout=60)
        default = connections.settings["default"]
        connections.settings[ALIAS] = {**default, "HOST": self.host, "PORT": "", "USER": "postgres", "PASSWORD": ""}

    def restart(self, mode: str, seconds: float) -> None:
        """Down, away for so long, and up again."""
        pid = self.pid
        everything = [psutil.Process(pid), *psutil.Process(pid).children()]
        self._forget_watchdog()
        connections[ALIAS].close()
        os.kill(pid, MODES[mode])
        # Until it is gone, not just dead: a new one takes its file for that of a running server.
        wait_for(lambda: not any(process.is_running() for process in everything), "PostgreSQL to end", poll=0.01)
        time.sleep(seconds)  # the fault is that it is away
        self.start()

    def fill(self) -> None:
        """The file of the outbox is as large as it may become: the next row that needs a page fails."""
        self._limit(FILE_LIMIT)
        for count in (500, 1):
            try:
                while True:
                    self._add_rows(count)
            except DatabaseError as error:
                assert "could not extend file" in str(error), error

    def free(self) -> None:
        self._limit("unlimited")

    def _limit(self, size: int | str) -> None:
        """For the postmaster, whose children inherit it, and for those that it has."""
        postmaster = psutil.Process(self.pid)
        # As their own user: not even root may do this to others everywhere.
        owner = postmaster.uids().real
        user = None if owner == os.getuid() else owner
        for process in [postmaster, *postmaster.children()]:
            with contextlib.suppress(subprocess.CalledProcessError):  # a connection that has just ended
                command = ["prlimit", "--pid", str(process.pid), f"--fsize={size}:"]
                subprocess.run(command, user=user, check=True, capture_output=True, timeout=10)

    def _add_rows(self, count: int) -> None:
        """Finished deliveries, as any outbox holds them until they are pruned; too small to lie in a file apart."""
        finished = {"state": "done", "payload": "x" * 1500, "finished_at": timezone.now(), "created_at": timezone.now()}
        Delivery.objects.using(ALIAS).bulk_create(
            Delivery(event_id=uuid.uuid4(), receiver="filler", **finished) for _ in range(count)
        )

    def close(self) -> None:
        connections[ALIAS].close()
        del connections.settings[ALIAS]
        del connections[ALIAS]
        self.stop()


def terminate_all(alias: str) -> int:
    """End every connection to the database but the test's own; how many that were."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return int(cursor.fetchone()[0])
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
        ids: list[Any] = [row[0] for row in cursor.fetchall()]
        for number in ids:
            with contextlib.suppress(Exception):  # gone by itself meanwhile
                cursor.execute(f"KILL {number}")
        return len(ids)

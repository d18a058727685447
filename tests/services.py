"""The servers that the tests talk to: found where they run, started where they do not.

| service | by environment | else | else |
|---|---|---|---|
| PostgreSQL | `SIGNALQ_TEST_POSTGRES` | 127.0.0.1:5432, if it lets us in | one of the session's own |
| MariaDB | `SIGNALQ_TEST_MARIADB` | 127.0.0.1:3306, if it lets us in | its tests are left out |
| Redis | `SIGNALQ_TEST_REDIS` | one of the session's own | |
| RabbitMQ | `SIGNALQ_TEST_RABBITMQ` | 127.0.0.1:5672, a virtual host of the session's own | its tests are left out |

The value `own` asks for a server of the session's own, and `none` does without, whatever runs here.

Looking is cheap and happens at import; starting happens when the first test needs it. Nothing here ever empties a
server that it was not given: databases, virtual hosts and the Redis are the session's own, numbered by a slot, so that
several sessions can run side by side on one machine.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import dj_database_url

from project.embedded import EmbeddedPostgres, EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Iterator

POSTGRES = "SIGNALQ_TEST_POSTGRES"
MARIADB = "SIGNALQ_TEST_MARIADB"
REDIS = "SIGNALQ_TEST_REDIS"
RABBITMQ = "SIGNALQ_TEST_RABBITMQ"
SLOT = "SIGNALQ_TEST_SLOT"
SLOT_WORKER = "SIGNALQ_TEST_SLOT_WORKER"

OWN = "own"
NONE = "none"

DatabaseSettings = dict[str, Any]


@functools.cache
def slot() -> int:
    """The lowest number that no other running session has; it is part of the name of everything we create.

    It is held by a lock on a file, which the kernel lets go however the session ends. Child processes inherit the
    number through the environment, and with it the same databases; pytest-xdist's workers have one each.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if SLOT in os.environ and os.environ.get(SLOT_WORKER, "") == worker:
        return int(os.environ[SLOT])
    for number in range(100):
        # A bare descriptor: it stays open, and with it the lock, until the process ends.
        lock = os.open(scratch() / f"slot-{number}.lock", os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.environ[SLOT], os.environ[SLOT_WORKER] = str(number), worker
        return number
    raise RuntimeError(f"100 test sessions run at once? Remove {scratch()}")


def scratch() -> Path:
    """A short path for locks, sockets and SQLite files: unix sockets allow about a hundred bytes."""
    directory = Path(tempfile.gettempdir()) / f"signalq-tests-{getpass.getuser()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def database_name() -> str:
    return f"test_signalq_{slot()}"


@functools.cache
def databases() -> dict[str, DatabaseSettings]:
    """DATABASES of the test settings: `default` (PostgreSQL), `sqlite`, and `mariadb` where there is one."""
    found = {"default": _postgres(), "sqlite": _sqlite()}
    if mariadb := _mariadb():
        found["mariadb"] = mariadb
    return found


def _named(settings: DatabaseSettings, name: str) -> DatabaseSettings:
    # The test database has the plain name, too: a child process with these settings sees what the test sees.
    return {**settings, "NAME": name, "TEST": {**settings.get("TEST", {}), "NAME": name}}


def _given(variable: str) -> str:
    """The url that the environment gives for a service, if it gives one."""
    value = os.environ.get(variable, "")
    return "" if value in {OWN, NONE} else value


def _may_look(variable: str) -> bool:
    return os.environ.get(variable) not in {OWN, NONE}


def _postgres() -> DatabaseSettings:
    if url := _given(POSTGRES):
        return _named(dict(dj_database_url.parse(url)), database_name())
    for user in ("postgres", getpass.getuser()) if _may_look(POSTGRES) else ():
        settings: DatabaseSettings = {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "USER": user}
        if _postgres_accepts(settings):
            return _named(settings, database_name())
    # Filled in by start_postgres(), when a test asks for the database.
    return _named({"ENGINE": "django.db.backends.postgresql", "HOST": ""}, database_name())


def _postgres_accepts(settings: DatabaseSettings) -> bool:
    import psycopg

    if not _listens(settings["HOST"], 5432):
        return False
    try:
        psycopg.connect(host=settings["HOST"], user=settings["USER"], dbname="postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def start_postgres(settings: DatabaseSettings) -> None:
    """Start a PostgreSQL of our own unless one was found, and point the settings at it, also for child processes."""
    if settings.get("HOST") or settings.get("OPTIONS", {}).get("host"):
        return
    directory = Path(tempfile.mkdtemp(prefix="signalq-pg-"))
    server = EmbeddedPostgres(directory)
    server.start()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.stop)
    os.environ[POSTGRES] = f"postgres://postgres@{quote(str(directory / 'data'), safe='')}/postgres"
    settings.update(HOST=str(directory / "data"), USER="postgres")


def remove_sqlite_leftovers(settings: DatabaseSettings) -> None:
    """A killed session leaves its write-ahead log, and SQLite would apply that to the new file of the same name."""
    for suffix in ("", "-wal", "-shm"):
        Path(settings["NAME"] + suffix).unlink(missing_ok=True)


def _sqlite() -> DatabaseSettings:
    options = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    }
    settings = {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": options}
    return _named(settings, str(scratch() / f"{database_name()}.sqlite3"))


def _mariadb() -> DatabaseSettings | None:
    try:
        import pymysql
    except ImportError:
        return None
    pymysql.install_as_MySQLdb()
    if url := _given(MARIADB):
        settings = dict(dj_database_url.parse(url))
    elif _may_look(MARIADB) and _mariadb_accepts():
        settings = {"ENGINE": "django.db.backends.mysql", "HOST": "127.0.0.1", "USER": "root", "PASSWORD": ""}
    else:
        return None
    settings["TEST"] = {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_bin"}
    options = {"charset": "utf8mb4", "init_command": "SET sql_mode='STRICT_TRANS_TABLES'"}
    settings["OPTIONS"] = {**options, **settings.get("OPTIONS", {})}
    return _named(settings, database_name())


def _mariadb_accepts() -> bool:
    import pymysql

    if not _listens("127.0.0.1", 3306):
        return False
    try:
        pymysql.connect(host="127.0.0.1", user="root", password="", connect_timeout=2).close()
    except pymysql.MySQLError:
        return False
    return True


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Redis:
    """A Redis that tests may empty, freeze and kill: of the session's own, unless one was given."""

    def __init__(self) -> None:
        self.given = _given(REDIS)
        self.server = EmbeddedRedis(scratch() / f"redis-{slot()}")

    @property
    def url(self) -> str:
        return self.given or self.server.url

    def empty(self) -> None:
        """Started again if a test has killed it; awake if a test has frozen it; without a key."""
        import redis

        if self.given:
            client = redis.Redis.from_url(self.given)
        else:
            self.server.start()
            os.kill(self.server.pid, signal.SIGCONT)
            client = redis.Redis(unix_socket_path=str(self.server.socket))
        with client:
            client.flushdb()

    def stop(self) -> None:
        self.server.stop()


class RabbitMQ:
    """A virtual host of the session's own on a RabbitMQ that runs, or the one that was given."""

    def __init__(self) -> None:
        self.given = _given(RABBITMQ)
        self.vhost = database_name()

    @property
    def url(self) -> str:
        return self.given or f"amqp://guest:guest@127.0.0.1:5672/{self.vhost}"

    def create(self) -> None:
        """Make the virtual host, anew if a session before left one."""
        if not self.given:
            self.drop()
            rabbitmqctl("add_vhost", self.vhost)
            rabbitmqctl("set_permissions", "-p", self.vhost, "guest", ".*", ".*", ".*")

    def empty(self) -> None:
        """Without a queue, for a test to begin with."""
        with self._channel() as channel:
            for queue in self._queues():
                channel.queue_delete(queue)

    def purge(self) -> int:
        """Every message that waits is gone, as after a restart of a broker that keeps none; how many."""
        with self._channel() as channel:
            return sum(channel.queue_purge(queue) for queue in self._queues())

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        import amqp

        parts = urlsplit(self.url)
        with amqp.Connection(
            f"{parts.hostname}:{parts.port or 5672}", parts.username, parts.password, virtual_host=parts.path[1:]
        ) as connection:
            yield connection.channel()

    def _queues(self) -> list[str]:
        """A RabbitMQ that was given is not asked: it may lack the tool, and hold what is not ours."""
        if self.given:
            return ["celery"]
        listed = rabbitmqctl("list_queues", "-q", "-p", self.vhost, "name", "exclusive", "--no-table-headers")
        rows = [line.split("\t") for line in listed.splitlines()]
        # An exclusive queue ends with its connection, and nobody else may touch it. Quorum queues say nothing here.
        return [name for name, exclusive in rows if exclusive != "true"]

    def drop(self) -> None:
        if not self.given and self.vhost in rabbitmqctl("list_vhosts", "-q", "--no-table-headers").split():
            rabbitmqctl("delete_vhost", self.vhost)


def rabbitmqctl(*arguments: str) -> str:
    """What it prints. On a busy machine it may not reach its node in time, and says so: it is asked again."""
    for _ in range(5):
        command = ["rabbitmqctl", *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
        )
        if answer.returncode != os.EX_UNAVAILABLE:
            break
    if answer.returncode:
        raise OSError(f"{' '.join(command)} ended with {answer.returncode}: {answer.stderr or answer.stdout}")
    return answer.stdout


@functools.cache
def has_rabbitmq() -> bool:
    """A RabbitMQ that was given, or one on this machine that lets us make a virtual host."""
    if _given(RABBITMQ):
        return True
    if not _may_look(RABBITMQ) or not shutil.which("rabbitmqctl") or not _listens("127.0.0.1", 5672):
        return False
    try:
        rabbitmqctl("list_vhosts", "-q")
    except (subprocess.SubprocessError, OSError):
        return False
    return True


def describe() -> list[str]:
    """Lines for the head of a test session: what was found, what will be started, what is left out."""
    present = databases()
    postgres = present["default"]
    host = postgres.get("HOST") or postgres.get("OPTIONS", {}).get("host")
    mariadb = present.get("mariadb")
    found = "127.0.0.1:5672" if _may_look(RABBITMQ) and _listens("127.0.0.1", 5672) else ""
    rabbitmq = _given(RABBITMQ) or found
    return [
        f"slot {slot()}: databases {database_name()}",
        f"postgresql: {host or 'none runs here, one is started when it is needed'}",
        "sqlite: in a file, WAL, immediate transactions",
        f"mariadb: {mariadb['HOST'] if mariadb else f'left out, none was found: set {MARIADB}'}",
        f"redis: {_given(REDIS) or 'one is started when it is needed'}",
        f"rabbitmq: {rabbitmq or f'left out, none was found: set {RABBITMQ}'}",
    ]

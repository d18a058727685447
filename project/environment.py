"""The environment variables, turned into what Django and Celery want; a bad one is refused by name.

A variable that is not set is looked up in `running.json`, where the demo writes what it has started. So
`python project/manage.py signalq status` in a second terminal finds the broker of the first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

ROOT = Path(__file__).resolve().parent.parent
RUNNING = "running.json"

BROKERS = ("redis", "rediss", "redis+socket", "amqp", "amqps", "sqs", "memory")

DATABASE_EXAMPLES = (
    "sqlite:////srv/demo.sqlite3, postgresql://user:password@host:5432/name, mysql://user:password@host:3306/name"
)
BROKER_EXAMPLES = "redis://host:6379/0, redis+socket:///run/redis.sock, amqp://user:password@host:5672//"
EMAIL_EXAMPLES = "smtp://user:password@host:25, smtps://host:465, smtp://host:587?tls=1, console:"


def directory() -> Path:
    """Where the demo keeps its database, mails and logs."""
    return Path(os.environ.get("DEMO_DIR") or ROOT / "var").absolute()


def read(name: str, default: str) -> str:
    """The variable, else what a running demo uses, else the default."""
    return os.environ.get(name) or _running().get(name) or default


def _running() -> dict[str, str]:
    try:
        running: dict[str, str] = json.loads((directory() / RUNNING).read_text())
    except FileNotFoundError:
        return {}
    return running


def flag(name: str) -> bool:
    """Whether the variable says yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def number(name: str) -> int:
    """The variable as a whole number, 0 if it is not set."""
    try:
        return int(os.environ.get(name) or 0)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {os.environ[name]!r} is no whole number.") from error


def database(url: str) -> dict[str, Any]:
    """Django's settings for the database at DATABASE_URL."""
    try:
        settings: dict[str, Any] = {**dj_database_url.parse(url, conn_max_age=600, conn_health_checks=True)}
    except dj_database_url.UnknownSchemeError as error:
        raise _refusal("DATABASE_URL", f"unknown scheme in {_masked(url)!r}", DATABASE_EXAMPLES) from error
    except ValueError as error:
        raise _refusal("DATABASE_URL", f"{error} in {_masked(url)!r}", DATABASE_EXAMPLES) from error
    engine = str(settings["ENGINE"]).rpartition(".")[2]
    if engine not in ("sqlite3", "postgresql", "mysql"):
        raise _refusal("DATABASE_URL", f"the demo does not run on {engine}", DATABASE_EXAMPLES)
    if engine == "mysql":
        _use_pymysql()
    # Every request is one transaction: a change and the deliveries that it causes commit together or not at all.
    return {**settings, "ATOMIC_REQUESTS": True, "OPTIONS": {**_OPTIONS[engine], **settings.get("OPTIONS", {})}}


_OPTIONS: dict[str, dict[str, Any]] = {
    # WAL: a reader does not block the writer. IMMEDIATE: a transaction takes the write lock when it begins, for one
    # that upgrades later fails at once instead of waiting. And 20 seconds of patience for that lock.
    "sqlite3": {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    },
    "postgresql": {},
    # Truncating a too long value in silence is MariaDB's default no more, but a server may be set so.
    "mysql": {"charset": "utf8mb4", "init_command": "SET sql_mode='STRICT_TRANS_TABLES'"},
}


def _use_pymysql() -> None:
    import pymysql  # type: ignore[import-untyped]

    # Django asks the driver for mysqlclient's version; older releases of PyMySQL claim one that is too old for it.
    pymysql.version_info = (2, 2, 8, "final", 1)
    pymysql.install_as_MySQLdb()


def broker(url: str) -> str:
    """BROKER_URL itself, if it is one that Celery can take."""
    scheme = urlsplit(url).scheme
    if scheme not in BROKERS:
        raise _refusal("BROKER_URL", f"{scheme or 'no'} scheme in {_masked(url)!r}", BROKER_EXAMPLES)
    return url


def embedded_broker() -> str:
    """Where the demo's own Redis listens if nothing else is said; see embedded.py."""
    return f"redis+socket://{quote(str(directory() / 'redis' / 'redis.sock'))}"


def email(url: str) -> tuple[str, dict[str, Any]]:
    """The mail backend and its options for EMAIL_URL."""
    parts = urlsplit(url)
    if parts.scheme == "console":
        return "django.core.mail.backends.console.EmailBackend", {}
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise _refusal("EMAIL_URL", f"{_masked(url)!r} names no mail server", EMAIL_EXAMPLES)
    try:
        port = parts.port or (465 if parts.scheme == "smtps" else 25)
    except ValueError as error:
        raise _refusal("EMAIL_URL", str(error), EMAIL_EXAMPLES) from error
    return "django.core.mail.backends.smtp.EmailBackend", {
        "host": parts.hostname,
        "port": port,
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "use_ssl": parts.scheme == "smtps",
        "use_tls": parse_qs(parts.query).get("tls", ["0"])[0] in ("1", "true", "yes"),
        # A mail server that hangs fails the attempt, and signalq tries again.
        "timeout": 10,
    }


def _refusal(name: str, problem: str, examples: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"{name}: {problem}. Unset the variable for the demo's own, or set it to one of: {examples}"
    )


def _masked(url: str) -> str:
    """The url without its password: errors end up in logs."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url

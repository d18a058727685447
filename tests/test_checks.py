"""The system checks, as `manage.py check` and `manage.py check --deploy` run them.

Those about senders and aliases are tested where senders are, in test_senders.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.core import checks
from django.db import connections
from django.db.models.signals import post_save

from signalq import async_receiver, wire
from signalq.checks import project
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Some of Django 6.1's own checks ask the databases.
pytestmark = pytest.mark.usefixtures("temporary_receivers", "every_alias")

ROOT = Path(__file__).parents[1]
REDIS, RABBITMQ = "redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"
CONFIRMED = {"broker_url": RABBITMQ, "broker_transport_options": {"confirm_publish": True}}
ADVICE = {"signalq.W002", "signalq.W003", "signalq.W004", "signalq.W005", "signalq.W006"}


@pytest.fixture
def deploy(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """What `check --deploy` says of ours, by id, for a Celery app with these settings; no broker is there to ask."""
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    made: list[celery.Celery] = []

    def run(*, deployment: bool = True, **configured: Any) -> dict[str, Any]:
        app = celery.Celery("tests", set_as_current=True)
        app.set_default()
        app.conf.update({**WELL, **configured})
        made.append(app)
        found = checks.run_checks(include_deployment_checks=deployment)
        return {message.id: message for message in found if str(message.id).startswith("signalq.")}

    yield run
    for app in made:
        app.close()


WELL = {"broker_url": REDIS, "worker_enable_remote_control": False, "CELERY_DB_REUSE_MAX": 1000}


def receive(name: str = "advised", **options: Any) -> None:
    async_receiver(post_save, sender=Author, name=name, **options)(lambda **kwargs: None)


@pytest.mark.parametrize(
    ("number", "configured", "says", "hint"),
    [
        ("W002", {"accept_content": ["json", "pickle"]}, "accept pickle:", 'CELERY_ACCEPT_CONTENT = ["json"]'),
        (
            "W002",
            {"accept_content": ["application/x-python-serialize", "json"]},
            "accept pickle:",
            "CELERY_ACCEPT_CONTENT",
        ),
        ("W002", {"accept_content": {"yaml", "pickle", "json"}}, "accept pickle and yaml:", "CELERY_ACCEPT_CONTENT"),
        ("W003", {"worker_enable_remote_control": True}, "shut them", "CELERY_WORKER_ENABLE_REMOTE_CONTROL = False"),
        (
            "W004",
            {"broker_transport_options": {"visibility_timeout": 10, "socket_timeout": 5}},
            r"after 10 s .*the setting LEASE is over \(20 s\)",
            "{'visibility_timeout': 3600, 'socket_timeout': 5}",
        ),
        ("W005", {"broker_url": RABBITMQ}, "a memory alarm", "TRANSPORT_OPTIONS = {'confirm_publish': True}"),
        (
            "W005",
            {"broker_url": [RABBITMQ], "broker_transport_options": {"read_timeout": 2}},
            "retries of transient deliveries",
            "{'read_timeout': 2, 'confirm_publish': True}",
        ),
        ("W006", {"result_extended": True}, "in the clear", "CELERY_RESULT_EXTENDED = False"),
        ("W009", {"broker_url": "memory://"}, "'memory' is one process's own memory", "Redis or RabbitMQ"),
        ("W009", {"broker_url": "filesystem://"}, "'filesystem' loses what was in flight", "CELERY_BROKER_URL"),
        ("W009", {"broker_url": "sqla+sqlite:///broker"}, "'sqla' loses what was in flight", "CELERY_BROKER_URL"),
        ("W010", {"task_always_eager": True}, "Tasks run eagerly", "CELERY_TASK_ALWAYS_EAGER = False"),
        ("W012", {"CELERY_DB_REUSE_MAX": None}, "closes the database connections", "CELERY_DB_REUSE_MAX = 1000"),
        (
            "W018",
            {**CONFIRMED, "task_default_delivery_mode": "transient"},
            "RabbitMQ forgets messages when it restarts",
            'CELERY_TASK_DEFAULT_DELIVERY_MODE = "persistent"',
        ),
    ],
)
def test_advice(deploy: Callable[..., Any], number: str, configured: Any, says: str, hint: str) -> None:
    receive()
    found = deploy(**configured)
    assert list(found) == [f"signalq.{number}"]
    message = found[f"signalq.{number}"]
    assert message.level == checks.WARNING
    assert re.search(says, message.msg)
    assert hint in message.hint


@pytest.mark.parametrize(
    "configured",
    [
        {},
        {"accept_content": ["json", "msgpack"]},
        {"broker_transport_options": {"visibility_timeout": 20}},
        CONFIRMED,
        {"task_default_delivery_mode": "transient"},  # on Redis it means nothing
        {"task_reject_on_worker_lost": True},  # durable ones are acknowledged before
    ],
)
def test_what_is_well_needs_no_advice(deploy: Callable[..., Any], configured: Any) -> None:
    receive()
    assert deploy(**configured) == {}


@pytest.mark.parametrize(
    "url", ["rediss://h", "sentinel://h;sentinel://i", ["redis://h", "redis://i"], "redis+socket:///s"]
)
def test_every_kind_of_redis_is_known(deploy: Callable[..., Any], url: Any) -> None:
    receive()
    assert list(deploy(broker_url=url, broker_transport_options={"visibility_timeout": 1})) == ["signalq.W004"]


@pytest.mark.parametrize("url", ["amqps://h", "pyamqp://h", "amqp://h;amqp://i", None])
def test_every_kind_of_rabbitmq_is_known(deploy: Callable[..., Any], url: Any) -> None:
    receive()
    assert list(deploy(broker_url=url)) == ["signalq.W005"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_limit": 700, "max_retries": 0}, r"the time limit of advised is over \(700 s\)"),
        ({"soft_time_limit": 700, "max_retries": 0}, r"the time limit of advised is over \(700 s\)"),
        ({"countdown": 700, "max_retries": 0}, r"the countdown of advised is over \(700 s\)"),
        ({}, r"the longest backoff of advised is over \(3600 s\)"),
        ({"max_retries": None, "retry_backoff_max": 700}, r"the longest backoff of advised is over \(700 s\)"),
        ({"max_retries": 9}, None),  # 256 s before the last
        ({"retry_backoff_max": 600}, None),
    ],
)
def test_redis_must_wait_for_transient_deliveries(deploy: Callable[..., Any], options: Any, says: str | None) -> None:
    receive(durable=False, **options)
    found = deploy(broker_transport_options={"visibility_timeout": 600})
    assert list(found) == (["signalq.W004"] if says else [])
    assert says is None or re.search(says, found["signalq.W004"].msg)


def test_redis_need_not_wait_for_durable_deliveries(deploy: Callable[..., Any]) -> None:
    receive(time_limit=700, countdown=800)
    assert deploy(broker_transport_options={"visibility_timeout": 600}) == {}


def test_celery_s_time_limit_counts_where_a_receiver_has_none(deploy: Callable[..., Any]) -> None:
    receive(durable=False, max_retries=0)
    options = {"visibility_timeout": 600}
    assert list(deploy(task_time_limit=700, broker_transport_options=options)) == ["signalq.W004"]
    assert deploy(task_time_limit=500, broker_transport_options=options) == {}


def test_a_transient_delivery_that_kills_its_worker(deploy: Callable[..., Any]) -> None:
    receive(durable=False, max_retries=0)
    message = deploy(task_reject_on_worker_lost=True)["signalq.W017"]
    assert "without end: advised." in message.msg
    assert "CELERY_TASK_REJECT_ON_WORKER_LOST = False" in message.hint
    assert deploy() == {}


@pytest.mark.parametrize(
    ("configured", "refused"),
    [
        ({"task_serializer": "pickle", "accept_content": ["json"]}, True),
        ({"accept_content": ["yaml"]}, True),
        ({"task_serializer": "msgpack", "accept_content": ["application/x-msgpack"]}, False),
        ({"accept_content": None}, False),
    ],
)
def test_messages_that_no_worker_accepts(deploy: Callable[..., Any], configured: Any, refused: bool) -> None:
    receive()
    found = deploy(deployment=False, **configured)
    assert list(found) == (["signalq.E005"] if refused else [])
    if refused:
        assert "they refuse every one" in found["signalq.E005"].msg
        assert found["signalq.E005"].level == checks.ERROR


@pytest.mark.filterwarnings("ignore:Task name 'clash' is already registered")  # Celery 5.7 says it, too
def test_a_task_with_the_name_of_a_receiver(deploy: Callable[..., Any]) -> None:
    assert deploy(deployment=False) == {}  # makes the app that is current
    app: Any = wire.celery_app()

    @app.task(name="clash", shared=False)
    def clash() -> None: ...

    assert clash.name == "clash"  # makes it, before the receiver's
    receive("clash")
    receive("no clash")
    found = [message for message in checks.run_checks() if str(message.id).startswith("signalq.")]
    assert [(message.id, "'clash', too" in message.msg) for message in found] == [("signalq.E004", True)]
    del app.tasks["clash"]


def test_names_that_differ_in_case_alone(deploy: Callable[..., Any]) -> None:
    receive("shop.Paid")
    receive("shop.paid")
    found = deploy(deployment=False)
    assert list(found) == ["signalq.W008"]
    assert "'shop.Paid' and 'shop.paid'" in found["signalq.W008"].msg


def test_an_app_that_comes_after_signalq(deploy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that publishes looks for the app that another thread has seen."""
    receive()
    assert deploy(deployment=False) == {}
    monkeypatch.setattr(project, "came_late", True)
    found = deploy(deployment=False)
    assert list(found) == ["signalq.W016"]
    assert "from .celery import app as celery_app" in found["signalq.W016"].hint


def test_an_app_that_is_loaded_in_a_later_app_s_ready(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    ran = subprocess.run(
        [sys.executable, "-c", RUN_LATE], env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["CeleryAppMissing", "['signalq.W016']"]


LATE = """
from celery import Celery
from django.apps import AppConfig
from django.db.models.signals import post_save

class Late(AppConfig):
    name = "late"

    def ready(self):
        self.app = Celery("late", broker="memory://")
        from signalq import async_receiver
        async_receiver(post_save, name="late")(lambda **kwargs: None)
"""
RUN_LATE = """
import threading
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "signalq", "late.Late"], USE_TZ=True)
django.setup()
from django.core import checks
from signalq import wire

def publisher():
    try:
        wire.celery_app()
    except wire.CeleryAppMissing as error:
        print(type(error).__name__)

thread = threading.Thread(target=publisher)
thread.start()
thread.join()
print([message.id for message in checks.run_checks() if message.id.startswith("signalq")])
"""


WORST = {
    "accept_content": ["json", "pickle"],
    "worker_enable_remote_control": True,
    "result_extended": True,
    "broker_transport_options": {"visibility_timeout": 1},
}


def test_a_plain_check_gives_no_advice(deploy: Callable[..., Any]) -> None:
    receive()
    assert deploy(deployment=False, **WORST) == {}
    assert set(deploy(**WORST)) == ADVICE - {"signalq.W005"}


def test_a_project_without_receivers_gets_no_advice(deploy: Callable[..., Any], settings: Any) -> None:
    assert deploy(**WORST) == {}
    receive()
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": False}
    assert deploy(**WORST) == {}


def test_a_process_without_a_celery_app(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    monkeypatch.setattr(wire, "_app", None)
    made_up = celery.Celery("default", loader="default", set_as_current=True)  # as Celery does by itself
    made_up.set_default()
    receive()
    found = [message for message in checks.run_checks(include_deployment_checks=True) if "signalq" in str(message.id)]
    assert [message.id for message in found] == ["signalq.E001"]
    assert "from .celery import app as celery_app" in str(found[0].hint)
    made_up.close()


@pytest.mark.parametrize("url", [REDIS, RABBITMQ])
def test_the_demo_follows_the_advice(url: str, tmp_path: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "project.manage", "check", "--deploy"],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "BROKER_URL": url, "DEMO_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
    assert "security.W" in checked.stderr  # Django's own: the checks for a deployment did run
    assert "signalq.W" not in checked.stderr


def test_every_check_is_in_the_reference() -> None:
    source = "".join(module.read_text() for module in ROOT.glob("signalq/checks/*.py"))
    known = set(re.findall(r'^    """.*?([EW]\d{3}): ', source, re.MULTILINE))
    known |= set(re.findall(r'^    """[EW]\d{3}: .* ([EW]\d{3}): ', source, re.MULTILINE))
    assert known == set(re.findall(r'"(?:signalq\.)?([EW]\d{3})"', source))
    listed = set(re.findall(r"^\| `signalq\.([EW]\d{3})` \|", (ROOT / "docs/reference.md").read_text(), re.MULTILINE))
    assert known == listed
    assert {f"signalq.{number}" for number in known} >= ADVICE

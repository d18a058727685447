"""`manage.py signalq status --probe`: who answers, what is said where nobody does, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from io import StringIO
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.models.signals import post_save

from signalq import async_receiver, probe
from signalq.flow.overview import flow
from signalq.models import Delivery
from signalq.queryset import State
from signalq.relay import Relay
from tests.steps import outbox, sweep
from tests.test_flow_figures import record
from tests.test_lights import made
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.harness import Site

pytestmark = pytest.mark.usefixtures("temporary_receivers")
ON_ONE = pytest.mark.parametrize("alias", ["default"], indirect=True)


@pytest.fixture
def publishing(settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}


@pytest.fixture
def redis_app(publishing: None, redis_broker: str) -> Iterator[celery.Celery]:
    yield from made(redis_broker)


@pytest.fixture
def rabbitmq_app(publishing: None, rabbitmq_broker: str) -> Iterator[celery.Celery]:
    yield from made(rabbitmq_broker)


def ask(alias: str, *arguments: str) -> str:
    output = StringIO()
    call_command(
        "signalq",
        "status",
        "--probe",
        "--database",
        alias,
        "--timeout",
        "0.3",
        *arguments,
        stdout=output,
        stderr=output,
    )
    return output.getvalue()


def pending(alias: str) -> list[tuple[int, str]]:
    return list(outbox(alias, receiver=probe.NAME).values_list("pk", "state"))


@ON_ONE
def test_a_real_worker_and_its_relay_answer(alias: str, site: Site) -> None:
    site.worker()
    asked = subprocess.run(
        [sys.executable, "-m", "django", "signalq", "status", "--probe", "--timeout", "20"],
        env={**os.environ, **site.env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("broker ok, worker ok, relay ok, round trip ")
    assert not Delivery.objects.using(alias).exists()


def test_a_relay_answers_on_every_database(alias: str, redis_app: celery.Celery) -> None:
    stop = threading.Event()

    def relay() -> None:
        Relay([alias]).run(stop)
        connections.close_all()

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        with pytest.raises(CommandError) as failed:
            ask(alias, "--timeout", "5")
    finally:
        stop.set()
        thread.join()
    assert str(failed.value).startswith(
        "worker: no answer from queue 'celery' within 5 s; messages that wait in it: 1."
    )
    assert "relay" not in str(failed.value)
    assert pending(alias) == []


@ON_ONE
def test_without_worker_and_relay_it_says_how_to_start_them(alias: str, redis_app: celery.Celery) -> None:
    output = StringIO()
    with pytest.raises(CommandError) as failed:
        call_command("signalq", "status", "--probe", "--timeout", "0.3", "--database", alias, stdout=output)
    assert output.getvalue().strip() == "broker ok, worker FAILED, relay FAILED"
    assert "celery -A PROJECT worker -Q celery" in str(failed.value)
    assert "relay: none took up within 300 ms what was due on 'default'." in str(failed.value)
    assert pending(alias) == []


@ON_ONE
def test_the_worker_of_a_queue(alias: str, redis_app: celery.Celery) -> None:
    with pytest.raises(CommandError, match="no answer from queue 'mail'"):
        ask(alias, "--queue", "mail")
    with redis_app.connection_for_read() as connection:
        message = connection.SimpleQueue("mail").get(timeout=5)
        message.ack()
    assert message.headers["task"] == probe.NAME


@ON_ONE
def test_where_the_broker_knows_that_nobody_is_there_nothing_is_sent(alias: str, rabbitmq_app: celery.Celery) -> None:
    with pytest.raises(CommandError, match=r"worker: none is connected to queue 'mail'\. Start one: celery -A"):
        ask(alias, "--queue", "mail")
    with rabbitmq_app.connection_for_write() as connection, pytest.raises(connection.channel_errors):
        connection.default_channel.queue_declare("mail", passive=True)


@ON_ONE
def test_a_broker_that_is_away(alias: str, publishing: None) -> None:
    app = next(made("redis://:secret@127.0.0.1:1/0"))
    with pytest.raises(CommandError, match=r"broker: redis://:\*\*@127.0.0.1:1/0 does not take a message: ") as failed:
        ask(alias)
    app.close()
    assert "worker" not in str(failed.value)
    assert "secret" not in str(failed.value)
    assert pending(alias) == []


@ON_ONE
def test_what_keeps_it_from_asking_at_all(alias: str, settings: Any) -> None:
    with pytest.raises(CommandError, match="PUBLISH"):
        ask(alias)
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    app = next(made("memory://"))
    app.conf.task_always_eager = True
    with pytest.raises(CommandError, match="CELERY_TASK_ALWAYS_EAGER"):
        ask(alias)
    app.close()


def test_for_programs(alias: str, settings: Any) -> None:
    output = StringIO()
    with pytest.raises(CommandError):
        call_command("signalq", "status", "--probe", "--json", "--database", alias, stdout=output)
    findings = json.loads(output.getvalue())[alias]
    assert [finding["part"] for finding in findings] == ["database", "broker"]
    assert [bool(finding["trouble"]) for finding in findings] == [False, True]


def test_a_worker_answers_for_probes_alone(alias: str, publishing: None) -> None:
    app = next(made("memory://"))
    task = app.tasks[probe.NAME]
    record(alias, "another", State.QUEUED, due_in=60)
    record(alias, probe.NAME, State.QUEUED, 2, due_in=60)
    other, first, second = outbox(alias).values_list("pk", flat=True)
    task(alias, [other, first])
    assert list(outbox(alias).values_list("pk", flat=True)) == [other, second]
    for forged in ([alias, "all"], [alias, ["1"]], ["nowhere", [second]], [alias, [2**63]], [alias], []):
        task(*forged)
    assert pending(alias) == [(second, "queued")]
    app.close()


def test_a_probe_is_in_nobodys_figures(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="prb.mails")(lambda **kwargs: None)
    record(alias, probe.NAME, State.QUEUED, due_in=-500)
    record(alias, probe.NAME, State.WAITING, due_in=500)
    now = flow([alias])
    assert [receiver.name for receiver in now.receivers] == ["prb.mails"]
    assert now.sentence == "All is well: nothing waits."


def test_a_relay_removes_what_was_left_over_and_what_is_not_due_stays(alias: str) -> None:
    record(alias, probe.NAME, State.QUEUED, due_in=-1)
    record(alias, probe.NAME, State.WAITING, due_in=-1)
    record(alias, probe.NAME, State.QUEUED, due_in=500)
    assert sweep(alias) == 0
    assert [state for _, state in pending(alias)] == ["queued"]

"""The four lights: what each says of real brokers, of a worker that is there or not, and of what cannot be known."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db.models.signals import post_save

from signalq import async_receiver, publish, wire
from signalq.flow.overview import Flow, Light, flow
from signalq.queryset import State
from tests.integration.harness import wait_for
from tests.test_flow_figures import done, record
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.usefixtures("temporary_receivers"),
    pytest.mark.parametrize("alias", ["default"], indirect=True),
]


@pytest.fixture(autouse=True)
def receivers(temporary_receivers: None) -> None:
    async_receiver(post_save, sender=Author, name="lit.mails", queue="mail")(lambda **kwargs: None)


@pytest.fixture
def publishing(settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}


@pytest.fixture
def app(publishing: None, broker: str) -> Iterator[celery.Celery]:
    yield from made(broker)


@pytest.fixture
def redis_app(publishing: None, redis_broker: str) -> Iterator[celery.Celery]:
    yield from made(redis_broker)


@pytest.fixture
def rabbitmq_app(publishing: None, rabbitmq_broker: str) -> Iterator[celery.Celery]:
    yield from made(rabbitmq_broker)


def made(url: str) -> Iterator[celery.Celery]:
    app = celery.Celery("tests", broker=url, set_as_current=True)
    app.set_default()
    yield app
    app.close()


def light(now: Flow, name: str) -> Light:
    return next(light for light in now.lights if light.name == name)


def send(pk: int) -> None:
    channel = wire.Channel()
    channel.send([wire.Wake("default", "lit.mails", pk, True)])
    channel.close()


def test_without_publishing_nothing_is_asked(alias: str) -> None:
    now = flow([alias])
    assert [(light.name, light.state) for light in now.lights] == [
        ("publisher", "idle"),
        ("broker", "idle"),
        ("workers", "idle"),
        ("relay", "ok"),
    ]


def test_a_broker_that_answers_tells_how_deep_its_queues_are(alias: str, app: celery.Celery) -> None:
    send(1)
    send(2)
    now = flow([alias])
    assert light(now, "broker").state == "ok"
    assert light(now, "broker").cause.endswith("answers. 2 messages in `mail`.")
    assert "guest:guest" not in light(now, "broker").cause
    assert [(queue.name, queue.depth) for queue in now.queues] == [("mail", 2)]


def test_rabbitmq_counts_who_consumes_a_queue(alias: str, rabbitmq_app: celery.Celery) -> None:
    record(alias, "lit.mails", State.QUEUED, due_in=10)
    send(1)
    now = flow([alias])
    assert light(now, "workers") == Light(
        "workers", "bad", "no worker on `mail`.", "Start one: celery -A PROJECT worker -Q mail"
    )
    assert now.sentence == "Look at the workers. Nothing is lost: 1 under way."
    with rabbitmq_app.connection_for_read() as connection:
        consumer = rabbitmq_app.amqp.TaskConsumer(
            connection, queues=[rabbitmq_app.amqp.queues["mail"]], callbacks=[lambda body, message: None]
        )
        consumer.consume()
        now = flow([alias])
    assert light(now, "workers").state == "ok"
    assert light(now, "workers").cause == "`mail`: 1 worker, nothing to do."


def test_redis_does_not_know_its_consumers_so_traces_tell(alias: str, redis_app: celery.Celery) -> None:
    unknown = light(flow([alias]), "workers")
    assert unknown.state == "idle"
    assert unknown.cause == "`mail`: nothing done lately, so that no worker has been seen."
    assert unknown.remedy == "manage.py signalq status --probe asks one."
    record(alias, "lit.mails", State.QUEUED, 3, due_in=-70)
    missed = light(flow([alias]), "workers")
    assert (missed.state, missed.cause) == ("bad", "no sign of a worker on `mail`.")
    record(alias, "lit.mails", State.RUNNING, due_in=10)
    done(alias, "lit.mails", [3, 4])
    seen = light(flow([alias]), "workers")
    assert (seen.state, seen.cause) == ("ok", "`mail`: 1 running, 2 done in the last minute.")


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING])
def test_what_only_a_relay_moves_on_tells_that_there_is_none(
    alias: str, redis_app: celery.Celery, state: State
) -> None:
    record(alias, "lit.mails", state, due_in=-20)
    assert light(flow([alias]), "relay").state == "ok", "it may be about to"
    record(alias, "lit.mails", state, due_in=-200)
    relay = light(flow([alias]), "relay")
    assert (relay.state, relay.cause) == ("bad", "Due for 3 min, and no relay has taken it up.")
    assert "manage.py signalq relay" in relay.remedy


def test_what_is_parked_is_not_the_relays_business(alias: str, redis_app: celery.Celery) -> None:
    record(alias, "gone", State.WAITING, due_in=-200)
    assert light(flow([alias]), "relay").state == "ok"


def test_a_broker_that_refuses_is_bad_and_the_rest_is_known_all_the_same(alias: str, publishing: None) -> None:
    app = next(made("redis://:secret@127.0.0.1:1/0"))
    record(alias, "lit.mails", State.WAITING, due_in=-200)
    now = flow([alias])
    app.close()
    broker = light(now, "broker")
    assert broker.state == "bad"
    assert broker.cause.startswith("redis://:**@127.0.0.1:1/0: ")
    assert "refused" in broker.cause
    assert "secret" not in str(now)
    assert light(now, "relay").state == "warning"
    assert now.sentence.endswith("not draining: the broker cannot be reached.")


def test_a_broker_that_hangs_takes_a_second_and_no_more(alias: str, publishing: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = next(made(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"))
        started = time.monotonic()
        now = flow([alias])
        took = time.monotonic() - started
        wait_for(
            lambda: not any(thread.name == "signalq-look-at-broker" for thread in threading.enumerate()), "its end"
        )
        app.close()
    assert light(now, "broker").state == "bad"
    assert took < 2.5


def test_the_breaker_of_this_process(alias: str, redis_app: celery.Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = next(made("redis://127.0.0.1:1/0"))
    publisher = publish.Publisher()
    monkeypatch.setattr("signalq.flow.lights.publisher", publisher)
    assert light(flow([alias]), "publisher").state == "ok"
    publisher.put([wire.Wake(alias, "lit.mails", 1, True)])
    wait_for(lambda: publisher.retry_in is not None, "the breaker to open")
    refused.close()
    opened = light(flow([alias]), "publisher")
    assert opened.state == "warning"
    assert opened.cause.startswith("This process cannot reach the broker; its next try is due in ")

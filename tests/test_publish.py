"""Publishing: what reaches the broker, what happens when it cannot, and what a fork leaves behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import celery
import kombu
import pytest
from django.db.models.signals import post_save

from signalq import async_receiver, publish, wire
from signalq.exceptions import CeleryAppMissing
from tests.steps import outbox, states
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests import services

pytestmark = pytest.mark.usefixtures("temporary_receivers")


@pytest.fixture
def app(broker: str) -> Iterator[celery.Celery]:
    """A Celery app of the process, on one broker after the other."""
    yield from _app(broker)


@pytest.fixture
def redis_app(redis_broker: str) -> Iterator[celery.Celery]:
    yield from _app(redis_broker)


def _app(url: str) -> Iterator[celery.Celery]:
    app = celery.Celery("tests", broker=url, set_as_current=True)
    app.set_default()
    yield app
    app.close()


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[publish.Publisher]:
    """A publisher of the test's own."""
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    publisher = publish.Publisher()
    monkeypatch.setattr(publish, "publisher", publisher)
    yield publisher
    publisher.flush(5)


def messages(app: celery.Celery, queue: str = "celery") -> list[Any]:
    """The arguments of the messages in `queue`, taken from it."""
    found = []
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        while True:
            try:
                message = simple.get(timeout=0.3)
            except simple.Empty:
                break
            message.ack()
            found.append((message.headers["task"], message.payload[0]))
        simple.close()
    return found


def test_a_transaction_is_published_in_chunks(
    app: celery.Celery, publisher: publish.Publisher, every_alias: list[str], settings: Any
) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "CHUNK": 4}
    async_receiver(post_save, sender=Author, name="chunked")(lambda **kwargs: None)
    async_receiver(post_save, sender=Author, name="alone", atomic=False)(lambda **kwargs: None)
    with publish_transaction():
        for number in range(10):
            Author.objects.create(name=str(number))
    publisher.flush(10)
    got = messages(app)
    chunks = [ids for name, (alias, ids) in got if name == "chunked"]
    assert sorted(len(ids) for ids in chunks) == [2, 4, 4]
    assert sorted(pk for ids in chunks for pk in ids) == [
        row.pk for row in outbox("default") if row.receiver == "chunked"
    ]
    assert [len(ids) for name, (alias, ids) in got if name == "alone"] == [1] * 10


def test_several_messages_share_a_round_trip(redis_app: celery.Celery) -> None:
    async_receiver(post_save, sender=Author, name="alone", atomic=False)(lambda **kwargs: None)
    channel, client = wire.Channel(), redis_app.connection_for_read().default_channel.client
    channel.send([wire.Wake("default", "alone", 1, alone=True)])
    before = client.info("stats")["total_reads_processed"]
    channel.send([wire.Wake("default", "alone", pk, alone=True) for pk in range(2, 52)])
    if hasattr(kombu.Producer, "batch"):  # from kombu 5.7
        assert client.info("stats")["total_reads_processed"] - before < 25
    assert [ids for _, (_, ids) in messages(redis_app)] == [[pk] for pk in range(1, 52)]


def publish_transaction() -> Any:
    from django.db import transaction

    return transaction.atomic()


def test_a_message_holds_row_numbers_and_nothing_else(
    app: celery.Celery, publisher: publish.Publisher, every_alias: list[str]
) -> None:
    async_receiver(post_save, sender=Author, name="private")(lambda **kwargs: None)
    Author.objects.create(name="Ada Lovelace", email="ada@example.org")
    publisher.flush(10)
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=5)
        everything = json.dumps([message.payload, message.headers, message.properties], default=str)
        message.ack()
    assert message.payload[0] == ["default", [outbox("default").get().pk]]
    assert "Ada" not in everything
    assert "example.org" not in everything


def test_the_queue_of_the_receiver_and_task_routes_apply(
    redis_app: celery.Celery, publisher: publish.Publisher, every_alias: list[str]
) -> None:
    redis_app.conf.task_routes = {"routed": {"queue": "by-route"}}
    async_receiver(post_save, sender=Author, name="own_queue", queue="mail")(lambda **kwargs: None)
    async_receiver(post_save, sender=Author, name="routed")(lambda **kwargs: None)
    Author.objects.create(name="Ada")
    publisher.flush(10)
    channel = wire.Channel()
    assert (channel.queue("own_queue"), channel.queue("routed")) == ("mail", "by-route")
    assert (channel.depth("mail"), channel.depth("by-route")) == (1, 1)
    assert [name for name, _ in messages(redis_app, "mail")] == ["own_queue"]
    assert [name for name, _ in messages(redis_app, "by-route")] == ["routed"]
    assert (channel.depth("mail"), channel.depth("by-route")) == (0, 0)
    channel.close()


def test_the_depth_of_a_queue_that_does_not_exist_is_nothing(app: celery.Celery) -> None:
    channel = wire.Channel()
    assert channel.depth("never-declared") == 0
    assert channel.depth("never-declared") == 0
    channel.close()


def test_a_deleted_queue_is_noticed(
    rabbitmq_broker: str, publisher: publish.Publisher, every_alias: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for app in _app(rabbitmq_broker):
        async_receiver(post_save, sender=Author, name="unrouted")(lambda **kwargs: None)
        channel = wire.Channel()
        channel.send([wire.Wake("default", "unrouted", 1, False)])
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete("celery")
        with pytest.raises(Exception, match="NO_ROUTE"):
            channel.send([wire.Wake("default", "unrouted", 2, False)])
        channel.close()


def test_a_transient_message_is_signed_and_holds_its_event(
    redis_app: celery.Celery, publisher: publish.Publisher, every_alias: list[str]
) -> None:
    async_receiver(post_save, sender=Author, name="light", durable=False)(lambda **kwargs: None)
    Author.objects.create(name="Ada")
    publisher.flush(10)
    assert states("default") == []
    ((name, (signed,)),) = messages(redis_app)
    assert name == "light"
    receiver, _, text = wire.unseal(signed)
    assert receiver == "light"
    assert text.startswith('{"v":1,')


def test_a_refusing_broker_costs_the_sender_nothing_and_opens_the_breaker(
    publisher: publish.Publisher, every_alias: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for app in _app("redis://127.0.0.1:1/0"):
        async_receiver(post_save, sender=Author, name="unreachable")(lambda **kwargs: None)
        for _ in range(20):
            Author.objects.create(name="Ada")
        publisher.flush(10)
        assert caplog.text.count("The broker cannot be reached") == 1
        assert len(states("default")) == 20
        assert app.main == "tests"


def test_a_frozen_broker_is_given_up_on_in_seconds(
    redis_service: services.Redis, redis_app: celery.Celery, publisher: publish.Publisher, every_alias: list[str]
) -> None:
    async_receiver(post_save, sender=Author, name="frozen")(lambda **kwargs: None)
    channel = wire.Channel()
    channel.send([wire.Wake("default", "frozen", 1, False)])
    os.kill(redis_service.server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Exception, match=r"[Tt]ime"):
            channel.send([wire.Wake("default", "frozen", 1, False)])
        assert time.monotonic() - started < 5
    finally:
        os.kill(redis_service.server.pid, signal.SIGCONT)
        channel.close()


def test_transient_messages_wait_for_the_broker(
    redis_app: celery.Celery, publisher: publish.Publisher, every_alias: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "RETRY_FIRST", 0.05)
    publisher._retry_in = 0.05
    failures = iter([ConnectionError("no"), ConnectionError("still no")])
    real_send = wire.Channel.send

    def send(self: wire.Channel, items: Any) -> None:
        items = list(items)
        for failure in failures:
            raise failure
        real_send(self, items)

    monkeypatch.setattr(wire.Channel, "send", send)
    async_receiver(post_save, sender=Author, name="patient", durable=False)(lambda **kwargs: None)
    Author.objects.create(name="Ada")
    publisher.flush(10)
    assert [name for name, _ in messages(redis_app)] == ["patient"]


def test_no_celery_app_is_an_error_that_says_so(
    publisher: publish.Publisher, every_alias: list[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made_up = celery.Celery("default", loader="default", set_as_current=True)
    made_up.set_default()
    monkeypatch.setattr(wire, "_app", None)
    with pytest.raises(CeleryAppMissing, match="celery_app"):
        wire.celery_app()
    async_receiver(post_save, sender=Author, name="homeless")(lambda **kwargs: None)
    Author.objects.create(name="Ada")
    publisher.flush(5)
    assert "No Celery app is loaded in this process" in caplog.text
    assert "recorded" in caplog.text
    assert states("default") == [("homeless", "queued", 0)]
    made_up.close()


def test_a_fork_starts_anew(redis_app: celery.Celery, settings: Any, every_alias: list[str]) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    publisher = publish.publisher  # the process's own: it is the one that knows of forks
    async_receiver(post_save, sender=Author, name="forked")(lambda **kwargs: None)
    publisher.put([wire.Wake("default", "forked", 1, False)])
    assert publisher._thread is not None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        started_anew = publisher._thread is None
        publisher.put([wire.Wake("default", "forked", 2, False)])
        publisher.flush(20)
        os.write(writer, b"ok" if started_anew else b"no")
        os._exit(0)
    publisher.put([wire.Wake("default", "forked", 3, False)])
    publisher.flush(20)
    os.waitpid(child, 0)
    assert os.read(reader, 2) == b"ok"
    ids = [pk for _, (_, ids) in messages(redis_app) for pk in ids]
    assert sorted(ids) == [1, 2, 3]


def test_the_thread_is_started_once(publisher: publish.Publisher, redis_app: celery.Celery) -> None:
    before = threading.active_count()
    for _ in range(50):
        publisher.put([])
    assert threading.active_count() == before + 1

"""What an event may hold, through what really carries it: each database's text column, and a broker's message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db.models.signals import post_save
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from signalq import async_receiver, codec, wire
from signalq.event import Event, uuid7
from signalq.outbox import Item
from tests.steps import outbox
from tests.test_codec import identical, refuse, values
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

carried = hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
events = st.lists(values, min_size=1, max_size=20).map(
    lambda found: Event(
        uuid7(), "tests.signal", None, {f"argument_{number}": value for number, value in enumerate(found)}
    )
)


@carried
@given(event=events)
def test_a_text_column_carries_it(alias: str, event: Event) -> None:
    text = codec.dump_event(event, refuse)
    item = Item("carried", True, False, 0.0, None, str(event.id), event.signal, "", "", "", text)
    ((_, pk),) = outbox(alias).record([item])
    back = codec.load_event(outbox(alias).get(pk=pk).payload)
    assert identical(dict(back.arguments), dict(event.arguments))


@pytest.fixture
def app(broker: str) -> Iterator[celery.Celery]:
    app = celery.Celery("tests", broker=broker, set_as_current=True)
    app.set_default()
    yield app
    app.close()


@carried
@given(event=events)
def test_a_broker_message_carries_it(app: celery.Celery, event: Event) -> None:
    async_receiver(post_save, sender=Author, name="carrier", durable=False)(_nothing)
    channel = wire.Channel()
    channel.send([wire.Message("carrier", str(event.id), codec.dump_event(event, refuse), 0.0)])
    channel.close()
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=10)
        message.ack()
    ((signed,), _, _) = message.payload
    name, _, text = wire.unseal(signed)
    assert name == "carrier"
    assert identical(dict(codec.load_event(text).arguments), dict(event.arguments))


def test_a_transient_message_expires(app: celery.Celery) -> None:
    async_receiver(post_save, sender=Author, name="perishing", durable=False, expires=60)(_nothing)
    channel = wire.Channel()
    channel.send([wire.Message("perishing", str(uuid7()), "text", 0.0, 60.0)])
    channel.close()
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=10)
        message.ack()
    assert message.headers["expires"] is not None


def _nothing(**kwargs: Any) -> None: ...

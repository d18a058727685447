"""`ignore_result=False`: each delivery's outcome in the result backend, under its `result_id`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db.models.signals import post_save
from django_celery_results.models import TaskResult

from signalq import Discard, async_receiver, current_delivery, publish, wire
from tests.steps import come_due, outbox, sweep, work
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers", "app")


@pytest.fixture
def app(every_alias: list[str]) -> Iterator[celery.Celery]:
    app = celery.Celery("tests", broker="memory://", backend="django-db", set_as_current=True)
    # django-celery-results keeps a traceback and the task's name with it only.
    app.conf.result_extended = True
    app.set_default()
    yield app
    app.close()


def test_the_outcome_of_each_delivery_of_a_chunk_is_stored(app: celery.Celery) -> None:
    @async_receiver(post_save, sender=Author, name="stored", ignore_result=False, max_retries=0)
    def stored(instance: Author, **kwargs: Any) -> str:
        if instance.name == "fails":
            raise ValueError("no")
        if instance.name == "discards":
            raise Discard("not wanted")
        return f"hello {instance.name}"

    for name in ("Ada", "fails", "discards"):
        Author.objects.create(name=name)
    work("default")
    states = {}
    for delivery in outbox("default"):
        result = app.AsyncResult(delivery.result_id)
        states[result.state] = result
    assert states["SUCCESS"].result == "hello Ada"
    assert isinstance(states["FAILURE"].result, ValueError)
    assert "in stored" in states["FAILURE"].traceback
    assert set(states) == {"SUCCESS", "FAILURE", "IGNORED"}
    # The outcome and no more: what the event held is not shown.
    rows = TaskResult.objects.values_list("task_name", "task_args", "task_kwargs")
    assert set(rows) == {("stored", None, None)}


def test_a_retry_is_a_state_of_its_own(app: celery.Celery) -> None:
    failures = [ValueError("not yet")]

    @async_receiver(post_save, sender=Author, name="stored.later", ignore_result=False, retry_backoff=0)
    def stored_later(**kwargs: Any) -> int:
        if failures:
            raise failures.pop()
        return 17

    Author.objects.create(name="Ada")
    result = app.AsyncResult(outbox("default").get().result_id)
    work("default")
    assert result.state == "RETRY"
    come_due("default")
    sweep("default")
    work("default")
    assert (result.state, result.result) == ("SUCCESS", 17)


def test_two_receivers_of_one_event_have_a_result_each(app: celery.Celery) -> None:
    keys = {}
    for name in ("one", "other"):

        @async_receiver(post_save, sender=Author, name=name, ignore_result=False)
        def handler(name: str = name, **kwargs: Any) -> str:
            delivery = current_delivery()
            assert delivery is not None
            keys[name] = delivery.idempotency_key
            return name

    Author.objects.create(name="Ada")
    work("default")
    deliveries = list(outbox("default"))
    assert len({delivery.event_id for delivery in deliveries}) == 1
    assert {row.receiver: app.AsyncResult(row.result_id).result for row in deliveries} == {
        "one": "one",
        "other": "other",
    }
    assert {row.receiver: row.result_id for row in deliveries} == keys


def test_two_transient_receivers_of_one_event_have_a_task_id_each(
    app: celery.Celery, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[wire.Item] = []
    keys: dict[str, str] = {}
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(publish, "send", sent.extend)

    def note(**kwargs: Any) -> None:
        delivery = current_delivery()
        assert delivery is not None
        keys[delivery.receiver] = delivery.idempotency_key

    for name in ("light.one", "light.other"):
        async_receiver(post_save, sender=Author, name=name, durable=False, ignore_result=False)(note)
    Author.objects.create(name="Ada")
    messages = [item for item in sent if isinstance(item, wire.Message)]
    wire.Channel().send(messages)
    published = {}
    with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        for message in messages:
            headers = queue.get(timeout=5).headers
            published[headers["task"]] = headers["id"]
            app.tasks[message.receiver].apply((wire.seal(message),))
    assert len(set(published.values())) == 2
    assert published == keys


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"], ids=["nul", "lone surrogate"])
def test_a_failure_whose_text_a_database_refuses_is_stored_all_the_same(app: celery.Celery, text: str) -> None:
    @async_receiver(post_save, sender=Author, name="odd", ignore_result=False, max_retries=0)
    def odd(instance: Author, **kwargs: Any) -> str:
        if instance.name == "returns":
            return text
        raise Discard(text) if instance.name == "discards" else ValueError(text)

    for name in ("raises", "returns", "discards"):
        Author.objects.create(name=name)
    work("default")
    raised, returned, discarded = (app.AsyncResult(row.result_id) for row in outbox("default"))
    assert set(outbox("default").values_list("state", flat=True)) == {"dead", "done", "discarded"}
    assert (raised.state, returned.state, discarded.state) == ("FAILURE", "SUCCESS", "IGNORED")
    assert isinstance(raised.result, ValueError)
    assert "in odd" in raised.traceback
    assert returned.result == text


def test_nothing_is_stored_unless_it_is_asked_for() -> None:
    async_receiver(post_save, sender=Author, name="not.stored")(lambda **kwargs: 17)
    Author.objects.create(name="Ada")
    work("default")
    assert not TaskResult.objects.exists()

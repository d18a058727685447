"""`ignore_result=False`: each delivery's outcome in the result backend, under its event's id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db.models.signals import post_save
from django_celery_results.models import TaskResult

from signalq import Discard, async_receiver
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
        result = app.AsyncResult(str(delivery.event_id))
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
    result = app.AsyncResult(str(outbox("default").get().event_id))
    work("default")
    assert result.state == "RETRY"
    come_due("default")
    sweep("default")
    work("default")
    assert (result.state, result.result) == ("SUCCESS", 17)


def test_nothing_is_stored_unless_it_is_asked_for() -> None:
    async_receiver(post_save, sender=Author, name="not.stored")(lambda **kwargs: 17)
    Author.objects.create(name="Ada")
    work("default")
    assert not TaskResult.objects.exists()

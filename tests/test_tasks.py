"""The Celery side: messages that are ours, and messages that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import pytest
from celery import exceptions as celery_exceptions
from django.core.signals import request_finished
from django.core.signing import Signer
from django.db.models.signals import post_save
from django.test import Client

from signalq import Discard, Retry, async_receiver, codec, wire
from signalq.signals import counts
from tests.steps import outbox, states
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("temporary_receivers")


def signed(item: wire.Item) -> str:
    assert isinstance(item, wire.Message)
    return wire.seal(item)


def effects() -> list[str]:
    return list(Effect.objects.values_list("note", flat=True))


def test_every_receiver_is_a_task_with_its_name(app: celery.Celery) -> None:
    async_receiver(post_save, sender=Author, name="named.task", aliases=["old.task"], time_limit=7)(lambda **kw: None)
    assert app.tasks["named.task"].time_limit == 7
    assert "old.task" in app.tasks


def test_a_wake_up_call_runs_what_is_queued(app: celery.Celery, every_alias: list[str]) -> None:
    async_receiver(post_save, sender=Author, name="woken")(lambda **kwargs: None)
    Author.objects.create(name="Ada")
    app.tasks["woken"].apply(("default", [outbox("default").get().pk]))
    assert states("default") == [("woken", "done", 1)]


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        (("default",), {}),
        (("nowhere", [1]), {}),
        ((["default"], [1]), {}),
        (("default", 1), {}),
        (("default", [1, "2"]), {}),
        (("default", [True]), {}),
        (("default", [-1]), {}),
        (("default", [2**63]), {}),
        (("default", list(range(1, 20_000))), {}),
        (("default", {"1": 1}), {}),
        (("default", [1], 3), {}),
        (("default", [1]), {"extra": 1}),
    ],
)
def test_a_forged_wake_up_call_is_refused_and_counted(
    app: celery.Celery, arguments: Any, keywords: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async_receiver(post_save, sender=Author, name="forged")(lambda **kwargs: None)
    before = counts["refused"]
    result = app.tasks["forged"].apply(arguments, keywords)
    assert result.successful()
    assert counts["refused"] == before + 1
    assert "A message to forged was refused" in caplog.text


def test_a_transient_delivery(app: celery.Celery, every_alias: list[str], sent: list[wire.Item]) -> None:
    @async_receiver(post_save, sender=Author, name="transient", durable=False)
    def transient(instance: Author, **kwargs: Any) -> str:
        Effect.objects.create(receiver="transient", note=instance.name)
        return "kept"

    Author.objects.create(name="Ada")
    assert states("default") == []
    result = app.tasks["transient"].apply((signed(sent[0]),))
    assert result.get() == "kept"
    assert effects() == ["Ada"]


def test_a_transient_message_that_is_not_ours_is_refused(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item]
) -> None:
    def body(instance: Author, **kwargs: Any) -> None:
        Effect.objects.create(receiver="transient", note=instance.name)

    async_receiver(post_save, sender=Author, name="signed.one", durable=False)(body)
    async_receiver(post_save, sender=Effect, name="signed.two", durable=False)(lambda **kwargs: None)
    Author.objects.create(name="Ada")
    good = signed(sent[0])
    before = counts["refused"]
    app.tasks["signed.two"].apply((good,))
    app.tasks["signed.one"].apply((good.replace("Ada", "Eve") + "x",))
    app.tasks["signed.one"].apply((Signer(key="another", salt=wire.SIGNING_SALT).sign(good),))
    app.tasks["signed.one"].apply((Signer(salt="other").sign(good),))
    app.tasks["signed.one"].apply((wire.signer().sign("signed.one\nnonsense"),))
    app.tasks["signed.one"].apply((17,))
    assert counts["refused"] == before + 6
    assert effects() == []


def test_a_transient_message_survives_a_change_of_the_secret(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], settings: Any
) -> None:
    @async_receiver(post_save, sender=Author, name="rotated", durable=False)
    def rotated(**kwargs: Any) -> None:
        Effect.objects.create(receiver="rotated")

    Author.objects.create(name="Ada")
    old = signed(sent[0])
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the new one"
    app.tasks["rotated"].apply((old,))
    assert Effect.objects.count() == 1


@pytest.mark.parametrize(("error", "retried"), [(ValueError(), True), (Retry(countdown=5), True), (KeyError(), False)])
def test_a_transient_failure_is_celery_s_to_retry(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], error: Exception, retried: bool
) -> None:
    name = f"retried.{type(error).__name__}"

    @async_receiver(post_save, sender=Author, name=name, durable=False, max_retries=2, dont_autoretry_for=[KeyError])
    def failing(**kwargs: Any) -> None:
        Effect.objects.create(receiver=name)
        raise error

    Author.objects.create(name="Ada")
    with pytest.raises((type(error), celery_exceptions.Retry)):
        app.tasks[name].apply((signed(sent[0]),)).get()
    assert Effect.objects.count() == (3 if retried else 1)  # apply() runs the retries, too


def test_a_transient_discard_and_a_deleted_row_are_no_failures(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item]
) -> None:
    @async_receiver(post_save, sender=Author, name="discarding", durable=False)
    def discarding(**kwargs: Any) -> None:
        raise Discard("not wanted")

    author = Author.objects.create(name="Ada")
    assert app.tasks["discarding"].apply((signed(sent[0]),)).successful()
    author.delete()
    assert app.tasks["discarding"].apply((signed(sent[0]),)).successful()


def test_request_finished(app: celery.Celery, every_alias: list[str], sent: list[wire.Item], client: Client) -> None:
    senders: list[Any] = []

    @async_receiver(request_finished, name="finished", durable=False)
    def finished(sender: Any, signal: Any, **kwargs: Any) -> None:
        assert signal is request_finished
        senders.append(sender)

    response = client.get("/nowhere/")
    response.close()
    live: list[Any] = []

    def synchronous(sender: Any, **kwargs: Any) -> None:
        live.append(sender)

    request_finished.connect(synchronous)
    from django.core.handlers.wsgi import WSGIHandler

    request_finished.send(WSGIHandler)
    request_finished.disconnect(synchronous)
    app.tasks["finished"].apply((signed(sent[-1]),)).get()
    assert senders == live == [WSGIHandler]


def test_the_payload_of_a_transient_event_is_bounded(every_alias: list[str], settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "MAX_PAYLOAD_TRANSIENT": 50}
    async_receiver(post_save, sender=Author, name="bounded", durable=False)(lambda **kwargs: None)
    with pytest.raises(codec.CaptureError, match="MAX_PAYLOAD_TRANSIENT is 50"):
        Author.objects.create(name="Ada")

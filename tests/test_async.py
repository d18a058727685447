"""Async senders and threads are captured like any other; middleware in an async request."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from signalq import Changed, async_receiver
from signalq.codec import load_event
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.usefixtures("temporary_receivers")
told = Signal()


async def create(request: HttpRequest, alias: str) -> HttpResponse:
    author = await Author.objects.using(alias).acreate(name="async")
    author.name = "changed"
    await author.asave()
    await author.adelete()
    return HttpResponse("ok")


def create_sync(request: HttpRequest, alias: str) -> HttpResponse:
    Author.objects.using(alias).create(name="sync")
    return HttpResponse("ok")


urlpatterns = [path("async/<alias>/", create), path("sync/<alias>/", create_sync)]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "signalq.middleware.ContextMiddleware",
]


@pytest.fixture
def receivers() -> None:
    for name, signal in (("saved", post_save), ("deleted", post_delete)):
        async_receiver(signal, sender=Author, name=name)(lambda **kwargs: None)


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_views_of_both_kinds(alias: str, receivers: None, kind: str) -> None:
    user = User.objects.create_user("ada")
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE):

        async def through_asgi() -> None:
            client = AsyncClient()
            await client.aforce_login(user)
            assert (await client.get(f"/{kind}/{alias}/")).content == b"ok"

        async_to_sync(through_asgi)()
        client = Client()
        client.force_login(user)
        assert client.get(f"/{kind}/{alias}/").content == b"ok"
    user.delete()
    once = ["saved", "saved", "deleted"] if kind == "async" else ["saved"]
    assert [name for name, _, _ in states(alias)] == once * 2
    contexts = [load_event(text).context for text in outbox(alias).values_list("payload", flat=True)]
    assert all(context["user"].model == "auth.user" for context in contexts)


@pytest.mark.parametrize("send", ["asend", "asend_robust"])
def test_custom_signals(alias: str, send: str) -> None:
    seen = []

    @async_receiver(told, name="listens", using=alias)
    async def listens(text: str, **kwargs: Any) -> None:
        seen.append(text)

    async_to_sync(getattr(told, send))(sender=None, text="hello")
    work(alias)
    assert seen == ["hello"]


def test_a_coroutine_handler_that_saves_causes_events_with_a_parent(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="first", atomic=False)
    async def first(instance: Author, **kwargs: Any) -> None:
        await Book.objects.using(alias).acreate(title="x", author=instance)

    async_receiver(post_save, sender=Book, name="second")(lambda **kwargs: None)
    Author.objects.using(alias).create(name="Ada")
    work(alias)
    cause, effect = (load_event(text) for text in outbox(alias).values_list("payload", flat=True))
    assert effect.parent == cause.id
    assert effect.chain == ("first",)


def test_threads_do_not_mix(every_alias: list[str]) -> None:
    async_receiver(post_save, sender=Book, when=Changed("status", from_="draft"), name="changed")(lambda **kwargs: None)
    alias, threads, each = "default", 8, 10
    start, failures = threading.Barrier(threads), []

    def save(number: int) -> None:
        try:
            start.wait()
            for i in range(each):
                with transaction.atomic(alias):
                    book = Book.objects.using(alias).create(title=f"{number}.{i}")
                    book.status = f"{number}.{i}"
                    book.save()
                    if i % 2:
                        transaction.set_rollback(True, using=alias)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connections[alias].close()

    running = [threading.Thread(target=save, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failures
    events = [load_event(text) for text in outbox(alias).values_list("payload", flat=True)]
    found = sorted(event.changes["status"] for event in events)
    assert found == sorted(("draft", f"{number}.{i}") for number in range(threads) for i in range(0, each, 2))
    stored = set(Book.objects.using(alias).values_list("pk", "status"))
    assert {(event.arguments["instance"].pk, event.changes["status"][1]) for event in events} == stored

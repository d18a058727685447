"""muted: nothing is captured within it, in this thread or task alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from django.db.models.signals import post_save, pre_save

from signalq import AsyncReceiver, async_receiver, muted
from tests.steps import outbox
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("temporary_receivers")


def receiver(name: str, signal: Any = post_save) -> AsyncReceiver[..., Any]:
    return async_receiver(signal, sender=Author, name=name)(lambda **kwargs: None)


def save(alias: str) -> None:
    Author.objects.using(alias).create(name="Ada")


def captured(alias: str) -> str:
    names = "".join(sorted(outbox(alias).values_list("receiver", flat=True)))
    outbox(alias).delete()
    return names


def test_named_receivers_or_all(alias: str) -> None:
    a, b = receiver("a"), receiver("b")
    receiver("c", pre_save)
    with muted(a):
        save(alias)
        assert captured(alias) == "bc"
        with muted(b):
            save(alias)
            assert captured(alias) == "c"
            with muted():
                save(alias)
                with muted(a):
                    save(alias)
                assert captured(alias) == ""
            save(alias)
            assert captured(alias) == "c"
        save(alias)
        assert captured(alias) == "bc"
    save(alias)
    assert captured(alias) == "abc"


def test_it_ends_with_an_exception_and_leaves_what_was_captured(alias: str) -> None:
    receiver("a")
    with transaction.atomic(alias):
        save(alias)
        with pytest.raises(ZeroDivisionError), muted():
            save(alias)
            raise ZeroDivisionError
        save(alias)
    assert captured(alias) == "aa"


def test_as_a_decorator(alias: str) -> None:
    a = receiver("a")

    @muted(a)
    def quiet(depth: int) -> None:
        """Says nothing."""
        save(alias)
        if depth:
            quiet(depth - 1)

    quiet(2)
    assert captured(alias) == ""
    assert quiet.__doc__ == "Says nothing."
    save(alias)
    assert captured(alias) == "a"


def test_other_threads_hear(alias: str) -> None:
    receiver("a")

    def elsewhere() -> None:
        save(alias)
        connections[alias].close()

    with muted():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert captured(alias) == "a"


def test_tasks_are_apart_and_awaits_are_spanned(alias: str) -> None:
    receiver("a")
    inside, outside = asyncio.Event(), asyncio.Event()

    @muted()
    async def quiet() -> None:
        await Author.objects.using(alias).acreate(name="quiet")
        inside.set()
        await outside.wait()
        await Author(name="quiet").asave(using=alias)

    async def loud() -> None:
        await inside.wait()
        await Author.objects.using(alias).acreate(name="loud")
        outside.set()

    async def both() -> None:
        await asyncio.gather(quiet(), loud())

    async_to_sync(both)()
    assert Author.objects.using(alias).count() == 3
    assert captured(alias) == "a"


@pytest.mark.parametrize("wrong", [save, "a", None])
def test_what_is_no_receiver_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes receivers made by async_receiver"):
        muted(wrong)

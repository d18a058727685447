"""The outbox is on the alias of the event; AtomicSave; replicas are never written."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save, pre_save
from django.dispatch import Signal
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from signalq import AtomicSave, Changed, Old, async_receiver
from signalq.codec import load_event
from tests.steps import outbox, work
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.usefixtures("temporary_receivers")
told = Signal()


class StrictAuthor(AtomicSave, Author):
    class Meta:
        proxy = True
        app_label = "testapp"


class Replica:
    """Reads go to "sqlite", writes to "default"."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return "sqlite"

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return "default"

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return True


class ByLabel:
    """Everything of the test app is on "sqlite", whatever is asked."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return "sqlite" if model._meta.app_label == "testapp" else None

    db_for_write = db_for_read


def queries(alias: str) -> CaptureQueriesContext:
    return CaptureQueriesContext(connections[alias])


@pytest.fixture
def saved() -> list[Any]:
    seen: list[Any] = []

    def saved(instance: Any, **kwargs: Any) -> None:
        seen.append((instance._state.db, kwargs["using"]))

    async_receiver(post_save, sender=[Author, StrictAuthor], name="saved")(saved)
    return seen


def test_each_alias_has_its_own(every_alias: list[str], saved: list[Any]) -> None:
    with transaction.atomic(every_alias[0]):
        for alias in every_alias:
            Author.objects.using(alias).create(name=alias)
        # Only what is not in the open transaction is there yet.
        assert [outbox(alias).count() for alias in every_alias] == [0] + [1] * (len(every_alias) - 1)
        transaction.set_rollback(True, using=every_alias[0])
    assert [outbox(alias).count() for alias in every_alias] == [0] + [1] * (len(every_alias) - 1)
    for alias in every_alias:
        work(alias)
    assert saved == [(alias, alias) for alias in every_alias[1:]]


@pytest.mark.usefixtures("every_alias")
@override_settings(DATABASE_ROUTERS=[f"{__name__}.Replica"])
def test_a_replica_is_never_written(saved: list[Any]) -> None:
    async_receiver(told, name="told")(lambda **kwargs: None)
    async_receiver(post_save, sender=Book, when=Changed("status"), name="changed")(lambda **kwargs: None)
    for alias in ("default", "sqlite"):  # as if it had been replicated
        Author(pk=1, name="Ada").save_base(using=alias, raw=True)
        Book(pk=1, title="Notes").save_base(using=alias, raw=True)
    with queries("sqlite") as replica:
        author, book = Author.objects.get(), Book.objects.get()
        assert (author._state.db, book._state.db) == ("sqlite", "sqlite")
        author.save()
        told.send(sender=None, instance=Author.objects.get())
        book.save()  # known from the replica: not changed
        book.status = "paid"
        book.save()
        work("default")
    written = [query["sql"] for query in replica.captured_queries if not query["sql"].startswith("SELECT")]
    assert written == []
    assert outbox("default").count() == 3
    assert [dict(load_event(row.payload).changes) for row in outbox("default", receiver="changed")] == [
        {"status": ("draft", "paid")}
    ]
    assert set(outbox("default").values_list("state", flat=True)) == {"done"}
    assert saved == [("default", "default")]


@pytest.mark.usefixtures("every_alias")
@override_settings(DATABASE_ROUTERS=[f"{__name__}.ByLabel"])
def test_what_the_router_says_for_writes_is_where_events_go(saved: list[Any]) -> None:
    author = StrictAuthor(name="Ada")
    with queries("sqlite") as found, queries("default") as elsewhere:
        author.save()
    assert outbox("sqlite").count() == 1
    assert found.captured_queries[0]["sql"].startswith("BEGIN")
    assert elsewhere.captured_queries == []


def test_atomic_save_commits_row_and_event_together(alias: str, saved: list[Any]) -> None:
    def fails(**kwargs: Any) -> None:
        raise ZeroDivisionError

    post_save.connect(fails, sender=StrictAuthor)
    try:
        with pytest.raises(ZeroDivisionError):
            StrictAuthor(name="Ada").save(using=alias)
        with pytest.raises(ZeroDivisionError):
            async_to_sync(StrictAuthor.objects.using(alias).acreate)(name="Ada")
    finally:
        post_save.disconnect(fails, sender=StrictAuthor)
    assert (Author.objects.using(alias).count(), outbox(alias).count()) == (0, 0)
    StrictAuthor.objects.using(alias).create(name="Ada")
    assert (Author.objects.using(alias).count(), outbox(alias).count()) == (1, 1)


def test_atomic_delete(alias: str) -> None:
    def fails(**kwargs: Any) -> None:
        raise ZeroDivisionError

    author = StrictAuthor.objects.using(alias).create(name="Ada")
    post_delete.connect(fails, sender=StrictAuthor)
    try:
        with pytest.raises(ZeroDivisionError):
            author.delete()
        with pytest.raises(ZeroDivisionError):
            async_to_sync(author.adelete)()
    finally:
        post_delete.disconnect(fails, sender=StrictAuthor)
    assert Author.objects.using(alias).count() == 1
    assert author.delete() == (1, {"testapp.StrictAuthor": 1})


def test_atomic_save_adds_nothing_to_an_open_transaction(alias: str) -> None:
    with transaction.atomic(alias), queries(alias) as found:
        StrictAuthor(name="Ada").save(using=alias)
    assert len(found) == 1
    with transaction.atomic(alias), pytest.raises(ZeroDivisionError):
        pre_save.connect(_fails, sender=StrictAuthor)
        try:
            StrictAuthor(name="Eve").save(using=alias)
        finally:
            pre_save.disconnect(_fails, sender=StrictAuthor)
    assert Author.objects.using(alias).count() == 1  # an error of a receiver's breaks nobody's transaction


def _fails(**kwargs: Any) -> None:
    raise ZeroDivisionError


def test_a_loaded_row_saved_elsewhere_is_another_row(every_alias: list[str]) -> None:
    async_receiver(post_save, sender=Book, when=Changed("status"), name="changed")(lambda **kwargs: None)
    one, other = every_alias[:2]
    book = Book.objects.using(one).create(title="x")
    book = Book.objects.using(one).get(pk=book.pk)
    book.save(using=other)
    assert [dict(load_event(row.payload).changes) for row in outbox(other)] == [{"status": (Old.ABSENT, "draft")}]

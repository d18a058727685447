"""Changed: old and new values, where they come from, and what they cost."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, models, transaction
from django.db.models import F
from django.db.models.signals import post_delete, post_save, pre_save
from django.test.utils import CaptureQueriesContext, isolate_apps

from signalq import ANY, Changed, Created, Old, RegistrationError, Sent, async_receiver, current_delivery
from signalq.codec import load_event
from signalq.exceptions import ConditionError
from signalq.models import Delivery
from tests.steps import outbox, work
from tests.testapp.models import Author, Book, BookProxy, Ebook

pytestmark = pytest.mark.usefixtures("temporary_receivers")
BOOK = {"status", "author", "title", "price"}


@pytest.fixture
def watching() -> Callable[..., None]:
    def register(when: Any, sender: Any = Book, signal: Any = post_save) -> None:
        async_receiver(signal, sender=sender, when=when, name="watching")(lambda **kwargs: None)

    return register


def changes(alias: str) -> list[dict[str, Any]]:
    """What was captured since the last look."""
    rows = outbox(alias, receiver="watching")
    found = [dict(load_event(text).changes) for text in rows.values_list("payload", flat=True)]
    rows.delete()
    return found


def stored(alias: str, **values: Any) -> Book:
    book = Book.objects.using(alias).create(**{"title": "Notes", **values})
    changes(alias)
    return Book.objects.using(alias).get(pk=book.pk)


def test_a_loaded_instance_knows_old_and_new(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    book = stored(alias)
    book.save()
    assert changes(alias) == []
    book.status = "paid"
    book.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]
    book.save()
    assert changes(alias) == []


def test_the_handler_sees_the_changes(alias: str) -> None:
    seen = []

    @async_receiver(post_save, sender=Book, when=Changed("status"), name="watching")
    def watching(instance: Book, **kwargs: Any) -> None:
        seen.append(current_delivery().event.changes)

    book = Book.objects.using(alias).create(title="Notes")
    book.status = "paid"
    book.save()
    work(alias)
    assert seen == [{"status": (Old.ABSENT, "draft")}, {"status": ("draft", "paid")}]


def test_an_insert_changes_every_field_from_nothing(alias: str, watching: Any) -> None:
    watching(Changed("status", to="paid"))
    Book.objects.using(alias).create(title="a")
    assert changes(alias) == []
    book = Book.objects.using(alias).create(title="b", status="paid")
    assert changes(alias) == [{"status": (Old.ABSENT, "paid")}]
    book.save()
    book.status = "draft"
    book.save()
    assert changes(alias) == []
    book.status = "paid"
    book.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Changed("status"), True),
        (Changed("title"), False),
        (Changed("title", "status"), True),
        (Changed("status", from_="draft"), True),
        (Changed("status", from_="sent"), False),
        (Changed("status", from_="draft", to="paid"), True),
        (Changed("status", from_="draft", to="sent"), False),
        (Changed("status", from_=None), False),
        (~Changed("status"), False),
        (~Changed("title"), True),
        (Changed("status") & Changed("title"), False),
        (Changed("status") | Changed("title"), True),
        (Changed("status") & ~Created(), True),
        (Created() | ~(Changed("title") | Changed("price")) & Sent(created=False), True),
        (Changed("status") & (lambda instance, **kwargs: instance.title == "Notes"), True),
    ],
)
def test_conditions(alias: str, watching: Any, condition: Any, expected: bool) -> None:
    watching(condition)
    book = stored(alias)
    changes(alias)
    book.status = "paid"
    book.save()
    assert bool(changes(alias)) is expected


def test_update_fields_limits_what_changes(alias: str, watching: Any) -> None:
    watching(Changed("status", "title"))
    book = stored(alias)
    book.status, book.title = "paid", "Memoirs"
    book.save(update_fields=["title"])
    assert changes(alias) == [{"title": ("Notes", "Memoirs")}]
    book.save(update_fields=["price"])
    assert changes(alias) == []
    book.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]


def test_deferred_fields(alias: str, watching: Any) -> None:
    watching(Changed("status", "title"))
    pk = stored(alias).pk
    rows = Book.objects.using(alias).defer("status")
    untouched = rows.get(pk=pk)
    untouched.save()
    assert changes(alias) == []
    loaded = rows.get(pk=pk)
    assert loaded.status == "draft"
    loaded.status = "paid"
    loaded.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]
    unknown = rows.get(pk=pk)
    unknown.status = "paid"
    unknown.save()
    assert changes(alias) == [{"status": (Old.UNKNOWN, "paid")}]
    unknown.save()
    assert changes(alias) == []


def test_a_refresh_is_the_new_base(alias: str, watching: Any) -> None:
    watching(Changed("status", "title", "author_id"))
    book = stored(alias)
    author = Author.objects.using(alias).create(name="Ada")
    Book.objects.using(alias).update(status="sent", title="Memoirs", author=author)
    book.refresh_from_db(fields=["status", "author"])
    book.save(update_fields=["status", "author"])
    assert changes(alias) == []
    book.refresh_from_db()
    book.save()
    assert changes(alias) == []
    book.status = "draft"
    book.refresh_from_db(fields=["title"])
    book.save()
    assert changes(alias) == [{"status": ("sent", "draft")}]


def test_a_refresh_of_part_of_the_fields_leaves_the_others_unknown(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    book = stored(alias)
    Book.objects.using(alias).update(status="sent")
    book.refresh_from_db(from_queryset=Book.objects.using(alias).only("title"))
    book.save()
    assert changes(alias) == [{"status": (Old.UNKNOWN, "draft")}]


@pytest.mark.parametrize("name", ["author", "author_id"])
def test_a_foreign_key_by_either_name(alias: str, watching: Any, name: str) -> None:
    ada = Author.objects.using(alias).create(name="Ada")
    watching(Changed(name, to=ada) | Changed(name, from_=ada.pk, to=None))
    book = stored(alias)
    book.author = ada
    book.save(update_fields=["author_id"])
    assert changes(alias) == [{"author": (None, ada.pk)}]
    book.author_id = None
    book.save(update_fields=["author"])
    assert changes(alias) == [{"author": (ada.pk, None)}]


def test_made_by_hand_for_an_existing_row_is_unknown(alias: str, watching: Any) -> None:
    watching(Changed("status", from_="sent"))
    pk = stored(alias).pk
    Book(pk=pk, title="Notes").save(using=alias)
    assert changes(alias) == [{"status": (Old.UNKNOWN, "draft")}]


def test_equal_values_of_other_types_are_no_change(alias: str, watching: Any) -> None:
    watching(Changed("price"))
    book = stored(alias, price=Decimal("1.50"))
    book.price = "1.50"  # type: ignore[assignment]
    book.save()
    assert changes(alias) == []
    book.price = "2.50"  # type: ignore[assignment]
    book.save()
    assert changes(alias) == [{"price": (Decimal("1.50"), Decimal("2.50"))}]


def test_what_the_database_computes_is_unknown(alias: str, watching: Any) -> None:
    watching(Changed("counter"), sender=Author)
    author = Author.objects.using(alias).create(name="Ada")
    changes(alias)
    author.counter = F("counter") + 1  # type: ignore[assignment]
    author.save()
    assert [list(change) for change in changes(alias)] == [["counter"]]
    author.refresh_from_db()
    author.save()
    assert changes(alias) == []


def test_pre_save(alias: str, watching: Any) -> None:
    watching(Changed("status", to="paid"), signal=pre_save)
    book = stored(alias)
    book.save()
    assert changes(alias) == []
    book.status = "paid"
    book.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]
    book.save()
    Book.objects.using(alias).create(title="x", status="paid")
    assert changes(alias) == [{"status": (Old.ABSENT, "paid")}]


def test_a_save_inside_a_save_is_told_apart(alias: str, watching: Any) -> None:
    def save_again(instance: Book, **kwargs: Any) -> None:
        if instance.title != "again":
            instance.title = "again"
            instance.save()

    watching(Changed("status", "title"))
    book = stored(alias)
    post_save.connect(save_again, sender=Book)
    try:
        book.status = "paid"
        book.save()
    finally:
        post_save.disconnect(save_again, sender=Book)
    assert sorted(changes(alias), key=str) == [{"status": ("draft", "paid")}, {"title": ("Notes", "again")}]


def test_changed_in_memory_by_another_receiver_is_not_stored(alias: str, watching: Any) -> None:
    def meddle(instance: Book, **kwargs: Any) -> None:
        instance.status = "meddled"

    watching(Changed("status"))
    book = stored(alias)
    post_save.connect(meddle, sender=Book)
    try:
        book.status = "paid"
        book.save()
    finally:
        post_save.disconnect(meddle, sender=Book)
    changes(alias)
    book.save()
    assert changes(alias) == [{"status": ("paid", "meddled")}]


def test_after_a_failed_save_the_base_is_what_is_stored(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    book = stored(alias)
    book.status = "paid"
    with pytest.raises(ValueError, match="no field"), transaction.atomic(alias):
        book.price = "no number"  # type: ignore[assignment]
        try:
            book.save()
        except Exception as error:
            raise ValueError("no field") from error
    book.price = Decimal(1)
    book.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]


@pytest.mark.parametrize("savepoint", [False, True])
def test_what_was_rolled_back_is_no_base(alias: str, watching: Any, savepoint: bool) -> None:
    watching(Changed("status"))
    book = stored(alias)
    book.status = "paid"
    with transaction.atomic(alias):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), transaction.atomic(alias):
                book.save()
                raise ZeroDivisionError
        if savepoint:
            book.save()
    if not savepoint:
        book.save()
    assert changes(alias) == [{"status": (Old.UNKNOWN, "paid")}]
    book.save()
    assert changes(alias) == []


def test_what_was_committed_is(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    book = stored(alias)
    with transaction.atomic(alias):
        for status in ("sent", "paid"):
            book.status = status
            with transaction.atomic(alias):
                book.save()
    assert changes(alias) == [{"status": ("draft", "sent")}, {"status": ("sent", "paid")}]
    book.save()
    assert changes(alias) == []


def test_copies_share_nothing_and_pickles_hold_nothing(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    book = stored(alias)
    assert "_signalq" not in str(vars(book))
    deep, shallow = copy.deepcopy(book), copy.copy(book)
    deep.status = "deep"
    deep.save()
    assert changes(alias) == [{"status": ("draft", "deep")}]
    shallow.status = "shallow"
    shallow.save()
    assert changes(alias) == [{"status": ("draft", "shallow")}]
    assert b"signalq.stored" not in pickle.dumps(book)
    pickled = pickle.loads(pickle.dumps(book))
    pickled.save()
    assert changes(alias) == [{"status": (Old.UNKNOWN, "draft")}]


def test_a_copy_made_by_a_new_key_is_another_row(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    book = stored(alias)
    book.pk = None
    book.save(using=alias)
    assert changes(alias) == [{"status": (Old.ABSENT, "draft")}]


def test_another_database_has_another_row(every_alias: list[str], watching: Any) -> None:
    watching(Changed("status"))
    one, other = every_alias[:2]
    book = stored(one)
    Book.objects.using(other).create(pk=book.pk, title="there", status="paid")
    changes(other)
    book.save(using=other)
    assert changes(other) == [{"status": (Old.UNKNOWN, "draft")}]


def test_bulk_created_is_unknown_until_it_is_saved(alias: str, watching: Any) -> None:
    watching(Changed("status"))
    [book] = Book.objects.using(alias).bulk_create([Book(title="x")])
    if book.pk is None:
        return
    book.save(using=alias)
    assert changes(alias) == [{"status": (Old.UNKNOWN, "draft")}]


@pytest.mark.parametrize("sender", [Ebook, BookProxy, "testapp.Ebook"])
def test_children_and_proxies_and_lazy_senders(alias: str, watching: Any, sender: Any) -> None:
    watching(Changed("status"), sender=sender)
    watching(Changed("status"), sender=sender)
    model = Ebook if isinstance(sender, str) else sender
    pk = model.objects.using(alias).create(title="x").pk
    changes(alias)
    book = model.objects.using(alias).get(pk=pk)
    book.save()
    assert changes(alias) == []
    book.status = "paid"
    book.save()
    assert changes(alias) == [{"status": ("draft", "paid")}]


def test_mutable_values_are_compared_by_a_copy() -> None:
    from signalq import stored as base

    author = Author(pk=1)
    author.name = ["in", {"place": 1}]  # type: ignore[assignment]
    kept = base.read(author, ["name"])
    author.name[1]["place"] = 2  # type: ignore[index]
    assert kept == {"name": ["in", {"place": 1}]}


def test_no_query_more(alias: str, watching: Any) -> None:
    def queries() -> list[str]:
        book = Book.objects.using(alias).get()
        with CaptureQueriesContext(
            connections[alias],
        ) as found:
            book.refresh_from_db()
            with transaction.atomic(alias):
                for status in ("paid", "paid", "sent"):
                    book.status = status
                    book.save()
        table = Delivery._meta.db_table
        return [query["sql"].split()[0] for query in found.captured_queries if table not in query["sql"]]

    Book.objects.using(alias).create(title="x")
    before = queries()
    watching(Changed("status"))
    Book.objects.using(alias).update(status="draft")
    assert queries() == before
    assert outbox(alias).count() == 2


@isolate_apps("tests.testapp")
def test_errors_name_the_field_and_the_nearest() -> None:
    def watch(*fields: str, sender: Any = Book, signal: Any = post_save) -> None:
        async_receiver(signal, sender=sender, when=Created() | ~Changed(*fields), name="w")(lambda **kwargs: None)

    with pytest.raises(RegistrationError, match=r"'staus', which testapp.Book does not have; did you mean 'status'\?"):
        watch("status", "staus")
    with pytest.raises(RegistrationError, match=r"'zzz'.*it has author, author_id, id"):
        watch("zzz")
    with pytest.raises(RegistrationError, match=r"'tags'.*use m2m_changed"):
        watch("tags")
    with pytest.raises(RegistrationError, match=r"'books'.*no column"):
        watch("books", sender=Author)
    with pytest.raises(RegistrationError, match="only post_save and pre_save"):
        watch("status", signal=[post_save, post_delete])
    with pytest.raises(RegistrationError, match="pass sender="):
        watch("status", sender=None)
    with pytest.raises(TypeError, match="needs names of fields"):
        Changed()

    class Computed(models.Model):
        double = models.GeneratedField(expression=F("id") * 2, output_field=models.IntegerField(), db_persist=True)

        class Meta:
            app_label = "testapp"

    with pytest.raises(RegistrationError, match="the database computes"):
        watch("double", sender=Computed)
    from signalq.receivers import registry

    assert "w" not in registry


def test_what_was_saved_while_disconnected_is_no_base(alias: str) -> None:
    receiver = async_receiver(post_save, sender=Book, when=Changed("status"), name="watching")(lambda **kwargs: None)
    book = stored(alias)
    receiver.disconnect()
    assert not post_save.has_listeners(Book)
    book.status = "paid"
    book.save()
    receiver.connect()
    book.status = "draft"
    book.save()
    assert changes(alias) == [{"status": (Old.UNKNOWN, "draft")}]
    book.save()
    assert changes(alias) == []


def test_hidden_in_a_function_is_an_error_that_names_the_receiver(alias: str, watching: Any) -> None:
    hidden = Changed("published_at")
    watching(lambda **kwargs: hidden(**kwargs))
    with pytest.raises(ConditionError, match=r"when= of watching raised.*put it into when= itself"):
        Book.objects.using(alias).create(title="x")


def test_equality_and_repr() -> None:
    assert Changed("a", to=None) == Changed("a", to=None)
    assert Changed("a") != Changed("a", to=None)
    assert Changed("a").to is ANY
    assert repr(Changed("a", "b", from_=1)) == "Changed('a', 'b', from_=1)"

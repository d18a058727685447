"""Instances as they were: what a snapshot holds, what it leaves out, and that it costs no query."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps.registry import Apps
from django.contrib.contenttypes.models import ContentType
from django.contrib.postgres.fields import DateRangeField, IntegerRangeField
from django.core.files.base import ContentFile
from django.core.signals import request_finished
from django.db import connections, models, transaction
from django.db.backends.postgresql.psycopg_any import DateRange, NumericRange
from django.db.models import F, Model
from django.db.models.functions import Now
from django.db.models.signals import m2m_changed, post_delete, post_migrate, post_save, pre_delete, pre_save
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject

from signalq import CaptureError, RegistrationError, async_receiver
from signalq.event import FieldText
from signalq.exceptions import DecodeError
from signalq.fields import carried, restored
from signalq.freeze import snapshot
from signalq.load import rebuild
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Book, Code, Letter, Remark, Seat, Tag, Ticket

pytestmark = pytest.mark.usefixtures("temporary_receivers")

placed = Signal()


def receive(signal: Any, **options: Any) -> list[Any]:
    """The instances that a receiver of `signal` gets."""
    instances: list[Any] = []

    def handler(instance: Any, **kwargs: Any) -> None:
        instances.append(instance)

    async_receiver(signal, name="receiver", **options)(handler)
    return instances


def held(instance: Model) -> dict[str, Any]:
    """The values of its concrete fields, without those that are deferred."""
    names = [field.attname for field in instance._meta.concrete_fields]
    return {name: getattr(instance, name) for name in names if name in vars(instance)}


def delivered(alias: str) -> None:
    work(alias)
    assert {state for _, state, _ in states(alias)} == {"done"}, list(outbox(alias).values_list("errors"))


# Of what is saved


def test_a_saved_instance_as_it_was(alias: str) -> None:
    got = receive(post_save, sender=Book, snapshot=True)
    author = Author.objects.using(alias).create(name="Ada")
    book = Book.objects.using(alias).create(title="Notes", author=author)
    Book.objects.using(alias).filter(pk=book.pk).update(title="changed")
    expected = held(book)
    delivered(alias)
    assert [held(instance) for instance in got] == [expected]
    assert got[0]._state.adding is False
    assert got[0]._state.db == alias
    assert got[0].author == author


@pytest.mark.parametrize("names", [["title", "author"], ("title", "author_id"), {"title", "author", "pk"}])
def test_some_of_its_fields(alias: str, names: Any) -> None:
    got = receive(post_save, sender=Book, snapshot=names)
    book = Book.objects.using(alias).create(title="Notes")
    Book.objects.using(alias).filter(pk=book.pk).update(title="changed", status="changed")
    delivered(alias)
    assert held(got[0]) == {"id": book.pk, "title": "Notes", "author_id": None}
    assert got[0].status == "changed"


def test_two_receivers_may_want_different_ones(alias: str) -> None:
    now, then = [], []
    async_receiver(post_save, sender=Author, name="now")(lambda instance, **kwargs: now.append(instance.name))
    async_receiver(post_save, sender=Author, name="then", snapshot=True)(
        lambda instance, **kwargs: then.append(instance.name)
    )
    author = Author.objects.using(alias).create(name="then")
    Author.objects.using(alias).filter(pk=author.pk).update(name="now")
    delivered(alias)
    assert (now, then) == (["now"], ["then"])
    assert len(set(outbox(alias).values_list("event_id", flat=True))) == 1


def test_an_instance_whose_relation_changes(alias: str) -> None:
    got = receive(m2m_changed, sender=Book.tags.through, snapshot=["title"])
    book = Book.objects.using(alias).create(title="Notes")
    book.tags.add(Tag.objects.using(alias).create(name="a"))
    book.delete()
    delivered(alias)
    assert [held(instance) for instance in got] == [{"id": instance.pk, "title": "Notes"} for instance in got]


@pytest.mark.parametrize("lazy", [False, True])
def test_an_instance_that_is_not_saved(every_alias: list[str], lazy: bool) -> None:
    got = receive(placed, snapshot=True)
    author = Author(name="Ada")
    placed.send(None, instance=SimpleLazyObject(lambda: author) if lazy else author)
    delivered("default")
    assert held(got[0]) == held(author)
    assert type(got[0]) is Author
    assert got[0]._state.adding is True
    assert got[0].pk is None


def test_a_custom_signal_may_mean_something_else_by_instance(every_alias: list[str]) -> None:
    got = receive(placed, snapshot=True)
    placed.send(None, instance="text")
    delivered("default")
    assert got == ["text"]


# Of what is deleted


@pytest.mark.parametrize("signal", [pre_delete, post_delete])
@pytest.mark.parametrize(
    "make",
    [
        lambda alias: Author(name="Ada", email="a@example.org"),
        lambda alias: Letter(id=uuid.uuid4(), note="dear"),
        lambda alias: Seat(row="A", number=5, taken=True),
        lambda alias: Ticket(code=Code("T-1"), colour=Code("red"), place=Code("left")),
        lambda alias: Remark(
            content_type=ContentType.objects.db_manager(alias).get_for_model(Author), object_id=5, file="a/b.txt"
        ),
        lambda alias: Book(title="Notes", published_at=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)),
    ],
    ids=["plain", "UUID", "composite key", "custom fields", "generic foreign key and file", "book"],
)
def test_every_concrete_field_of_what_is_deleted(alias: str, signal: Any, make: Callable[[str], Model]) -> None:
    instance = make(alias)
    instance.save(using=alias)
    expected = held(instance)
    got = receive(signal, sender=type(instance))
    instance.delete()
    delivered(alias)
    assert held(got[0]) == expected
    assert {name: type(value) for name, value in held(got[0]).items()} == {
        name: type(value) for name, value in expected.items()
    }


def test_the_target_of_a_generic_foreign_key(alias: str) -> None:
    author = Author.objects.using(alias).create(name="Ada")
    content_type = ContentType.objects.db_manager(alias).get_for_model(Author)
    remark = Remark.objects.using(alias).create(content_type=content_type, object_id=author.pk)
    got = receive(post_delete, sender=Remark)
    remark.delete()
    delivered(alias)
    assert got[0].target == author


def test_what_was_deferred_or_an_expression_is_left_out(alias: str) -> None:
    pk = Author.objects.using(alias).create(name="Ada", email="a@example.org").pk
    got = receive([pre_delete, post_delete], sender=Author)
    author = Author.objects.using(alias).defer("email").get(pk=pk)
    author.counter = F("counter") + 1
    author.delete()
    delivered(alias)
    for instance in got:
        assert held(instance) == {"id": pk, "name": "Ada"}
        assert instance.get_deferred_fields() == {"email", "counter"}
        with pytest.raises(Author.DoesNotExist):
            instance.email  # noqa: B018


def test_a_deletion_with_some_fields(alias: str) -> None:
    author = Author.objects.using(alias).create(name="Ada", email="a@example.org")
    pk = author.pk
    author.counter = object()  # type: ignore[assignment]
    receiver = async_receiver(post_delete, sender=Author, name="all")(lambda **kwargs: None)
    with pytest.raises(CaptureError, match=r"'instance' .* its field 'counter': a builtins.object .*snapshot=\["):
        author.delete()
    receiver.disconnect()
    assert outbox(alias).count() == 0
    got = receive(post_delete, sender=Author, snapshot=["email"], omit=["origin"])
    author = Author.objects.using(alias).create(pk=pk + 1, name="Eve", email="e@example.org")
    author.counter = object()  # type: ignore[assignment]
    author.delete()
    delivered(alias)
    assert [held(instance) for instance in got] == [{"id": pk + 1, "email": "e@example.org"}]


def test_a_default_of_the_database_s_is_still_one() -> None:
    class Stamp(models.Model):
        at = models.DateTimeField(db_default=Now())

        class Meta:
            app_label = "testapp"
            apps = Apps()

    taken = snapshot(Stamp(), "default")
    assert taken.fields == {"id": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signalq.load._model", lambda label: Stamp)
        assert type(rebuild(taken).at) is type(Stamp().at)  # type: ignore[attr-defined]


# Keys of every kind


@pytest.mark.parametrize(
    "make",
    [
        lambda: Letter(id=uuid.uuid4()),
        lambda: Seat(row="A", number=5),
        lambda: Ticket(code=Code("T-1")),
    ],
    ids=["UUID", "composite", "custom field"],
)
def test_rows_are_found_by_keys_of_every_kind(alias: str, make: Callable[[], Model]) -> None:
    instance = make()
    got = receive(post_save, sender=type(instance))
    instance.save(using=alias)
    instance.save(using=alias)
    with CaptureQueriesContext(connections[alias]) as queries:
        delivered(alias)
    assert got == [instance, instance]
    table = f"FROM {connections[alias].ops.quote_name(instance._meta.db_table)}"
    assert sum(table in query["sql"] for query in queries) <= 2  # both at once, and one again as it was used
    assert set(outbox(alias).values_list("object_pk", flat=True)) == {str(instance.pk)}


def test_keys_in_a_set(alias: str) -> None:
    keys: list[Any] = []
    async_receiver(m2m_changed, sender=Ticket.others.through, name="x")(lambda pk_set, **kwargs: keys.append(pk_set))
    one, two = (Ticket.objects.using(alias).create(code=Code(text)) for text in "ab")
    one.others.add(two)
    delivered(alias)
    assert {Code("b")} in keys


def test_a_composite_key_of_which_a_part_is_missing() -> None:
    async_receiver(placed, name="x")(lambda **kwargs: None)
    with pytest.raises(CaptureError, match=r"the testapp\.Seat is not saved, .* snapshot=True"):
        placed.send(None, instance=Seat(row="A"))


# Values that only their fields know


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (IntegerRangeField(), NumericRange(1, 5)),
        (IntegerRangeField(), NumericRange(None, None, empty=True)),
        (DateRangeField(), DateRange(dt.date(2026, 1, 1), None, "(]")),
    ],
    ids=str,
)
def test_ranges(field: Any, value: Any) -> None:
    class Period(models.Model):
        range = field.clone()

        class Meta:
            app_label = "testapp"
            apps = Apps()

    text = carried(Period._meta.get_field("range"), value)
    assert isinstance(text, FieldText)
    assert Period._meta.get_field("range").to_python(text.text) == value


def test_a_file_that_is_not_saved_yet_has_its_name() -> None:
    remark = Remark(content_type_id=1, object_id=1)
    remark.file = ContentFile(b"content", name="new.txt")
    assert snapshot(remark, "default").fields["file"] == "new.txt"


@pytest.mark.parametrize("value", [FieldText("testapp.author", "gone", "1"), FieldText("gone.gone", "x", "1")], ids=str)
def test_a_field_that_is_gone(value: FieldText) -> None:
    with pytest.raises(DecodeError, match=r"cannot be read here: .* Has a migration changed the field\?"):
        restored(value)


# What it costs, and what is refused


@contextlib.contextmanager
def counting(alias: str) -> Iterator[CaptureQueriesContext]:
    with transaction.atomic(alias), CaptureQueriesContext(connections[alias]) as queries:
        yield queries


@pytest.mark.parametrize("wanted", [False, True, ["name", "email"]])
def test_capture_costs_no_query(alias: str, wanted: Any) -> None:
    def write() -> int:
        with counting(alias) as queries:
            author = Author.objects.using(alias).create(name="Ada")
            author.save()
            deferred = Author.objects.using(alias).only("name").get(pk=author.pk)
            deferred.name = "Eve"
            deferred.save()
            deferred.delete()
        return len(queries)

    # Without a receiver of deletions Django would not even load what it deletes.
    pre_delete.connect(nothing, sender=Author)
    try:
        before = write()
        async_receiver([pre_save, post_save, pre_delete, post_delete], sender=Author, snapshot=wanted, name="x")(
            nothing
        )
        assert write() == before
    finally:
        pre_delete.disconnect(nothing, sender=Author)
    assert outbox(alias).count() == 8


def nothing(**kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("signal", "options", "message"),
    [
        (post_save, {"snapshot": True, "durable": False}, r"durable=False contradicts snapshot="),
        (post_save, {"snapshot": ["name"], "durable": False}, r"durable=False contradicts snapshot="),
        (post_save, {"snapshot": "name"}, r"snapshot='name' must be a list: write snapshot=\['name'\]"),
        (post_save, {"snapshot": []}, r"snapshot=\[\] names no field: snapshot=True means all"),
        (post_save, {"snapshot": [5]}, r"must be a list of texts; 5 is none"),
        (post_save, {"snapshot": None}, r"must be a list of texts; None is none"),
        (
            post_save,
            {"snapshot": ["nme"], "sender": Author},
            r"'nme' is no concrete field of testapp.Author",
        ),
        (post_save, {"snapshot": ["tags"], "sender": Book}, r"'tags' is no concrete field of testapp.Book"),
        (post_migrate, {"snapshot": True, "durable": False}, r"durable=False contradicts snapshot="),
    ],
)
def test_options_that_say_nothing(signal: Any, options: Any, message: str) -> None:
    with pytest.raises((RegistrationError, TypeError), match=message):
        async_receiver(signal, **options)


def test_a_signal_without_an_instance() -> None:
    with pytest.raises(RegistrationError, match=r"argument instance, which \S+request_finished is sent without"):
        async_receiver(request_finished, snapshot=True)


def test_a_field_that_this_sender_has_not(alias: str) -> None:
    receive(post_save, snapshot=["name"])
    Author.objects.using(alias).create(name="Ada")
    with pytest.raises(RegistrationError, match=r"'name' is no concrete field of testapp\.Book"):
        Book.objects.using(alias).create(title="a")

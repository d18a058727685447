"""From a live signal to an event and back, without a database."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from django.apps.registry import Apps
from django.core.files.base import ContentFile
from django.db import connection, connections, models
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import Signal
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject

from signalq import CaptureError, Created, Sent, async_receiver, codec, freeze, held, naming, outbox
from signalq.event import Event, ModelClass, Reference, Snapshot, uuid7
from signalq.exceptions import ConditionError, DecodeError
from signalq.load import Loader, rebuild
from tests.testapp.models import Author, Book, Code, Letter, Seat, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("temporary_receivers")

paid = Signal()


class Primary:
    """Reads come from "sqlite", writes go to "default"."""

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        assert model._meta.app_label == "testapp"
        return "default"


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[outbox.Pending]:
    """What was left pending."""
    pendings: list[outbox.Pending] = []
    monkeypatch.setattr(outbox, "add", pendings.append)
    return pendings


def events(pendings: list[outbox.Pending]) -> list[Event]:
    return [codec.load_event(item.payload) for pending in pendings for item in pending.items]


def nothing(**kwargs: Any) -> None: ...


def stored(model: type[models.Model] = Author, using: str = "default", **fields: Any) -> Any:
    """An instance as it comes from the database."""
    return model.from_db(using, list(fields), list(fields.values()))


def send_saved(signal: Signal, instance: models.Model, **arguments: Any) -> None:
    arguments = {"raw": False, "using": "default", "update_fields": None, **arguments}
    signal.send(type(instance), instance=instance, **arguments)


# Which events


def test_a_condition_is_given_the_signal_and_the_sender(added: list[outbox.Pending]) -> None:
    seen: list[Any] = []

    def when(signal: Signal, sender: Any, instance: Any, **kwargs: Any) -> bool:
        seen.append((signal, sender, instance.pk))
        return False

    async_receiver([post_save, pre_save], sender=Author, name="x", when=when)(nothing)
    async_receiver([post_save, pre_save], sender=Author, name="y", when=Sent(signal=post_save))(nothing)
    send_saved(pre_save, stored(id=1))
    send_saved(post_save, stored(id=2), created=True)
    assert seen == [(pre_save, Author, 1), (post_save, Author, 2)]
    assert [event.signal for event in events(added)] == ["django.db.models.signals.post_save"]


def test_a_condition_that_raises_is_named() -> None:
    async_receiver(paid, name="divides", when=lambda **kwargs: 1 / 0)(nothing)
    with pytest.raises(ConditionError, match=r"when= of divides raised ZeroDivisionError: division by zero"):
        paid.send(None)


def test_arguments_of_a_custom_signal_may_have_the_names_of_a_model_signal_s(added: list[outbox.Pending]) -> None:
    async_receiver(paid, name="any")(nothing)
    async_receiver(paid, name="mine", using="sqlite")(nothing)
    paid.send(None, using="paypal", raw=True)
    assert [(pending.using, pending.items[0].receiver) for pending in added] == [("default", "any"), ("sqlite", "mine")]
    assert events(added)[0].arguments == {"using": "paypal", "raw": True}
    added.clear()
    paid.send(None, using="default")
    assert [pending.using for pending in added] == ["default"]


def historical() -> type[models.Model]:
    class Author(models.Model):
        class Meta:
            app_label = "testapp"
            apps = Apps()

    return Author


@pytest.mark.parametrize(
    "model", [historical(), MigrationRecorder(connection).Migration, Author], ids=["historical", "record", "ours"]
)
def test_without_a_sender_models_that_no_worker_knows_are_left_out(
    model: type[models.Model], added: list[outbox.Pending]
) -> None:
    async_receiver(post_save, name="any")(nothing)
    send_saved(post_save, stored(model, id=1), created=True)
    assert len(added) == (model is Author)


# A pre_save in autocommit waits for its post_save


@pytest.fixture
def about_to(added: list[outbox.Pending]) -> Callable[[], list[str]]:
    """The names of the authors whose pre_save has become an event."""
    async_receiver(pre_save, sender=Author, name="mine", when=lambda instance, **kwargs: instance.name != "-")(nothing)
    async_receiver(pre_save, name="any", when=lambda instance, **kwargs: instance.name != "-")(nothing)
    return lambda: [event.arguments["instance"].fields["name"] for event in events(added)]


def test_both_with_and_without_a_sender(about_to: Callable[[], list[str]]) -> None:
    author = Author(name="Ada")
    send_saved(pre_save, author)
    assert about_to() == []
    send_saved(post_save, author, created=True)
    assert about_to() == ["Ada", "Ada"]
    send_saved(post_save, author, created=False)
    assert len(about_to()) == 2
    assert set(vars(author)) == set(vars(Author()))


@pytest.mark.parametrize("name", ["second", "-"])
def test_a_save_that_failed_is_forgotten_at_the_next(about_to: Callable[[], list[str]], name: str) -> None:
    author = Author(name="first")
    send_saved(pre_save, author)  # and then the INSERT fails
    author.name = name
    send_saved(pre_save, author)
    send_saved(post_save, author, created=True)
    assert about_to() == ([] if name == "-" else [name, name])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda author: pickle.loads(pickle.dumps(author))])
def test_a_copy_does_not_take_along_what_waits(about_to: Callable[[], list[str]], duplicate: Any) -> None:
    author = Author(name="original")
    send_saved(pre_save, author)
    twin = duplicate(author)
    twin.name = "twin"
    send_saved(post_save, twin, created=True)
    assert about_to() == []
    send_saved(pre_save, twin)
    send_saved(post_save, twin, created=True)
    send_saved(post_save, author, created=True)
    assert about_to() == ["twin", "twin", "original", "original"]


def test_what_waits_does_not_outlive_its_instance(about_to: Callable[[], list[str]]) -> None:
    author = Author(name="Ada")
    send_saved(pre_save, author)
    assert held._held
    del author
    gc.collect()
    assert not held._held


# What they hold


@pytest.mark.parametrize("signal", [pre_save, post_delete])
def test_a_snapshot_is_of_the_alias_that_is_written_to(signal: Signal, added: list[outbox.Pending]) -> None:
    async_receiver(signal, sender=Author, name="x", omit=["using"])(nothing)
    author = Author(name="Ada")
    send_saved(signal, author, using="sqlite")
    send_saved(post_save, author, using="sqlite", created=True)
    taken = events(added)[0].arguments["instance"]
    assert (taken.using, taken.adding, taken.fields["name"]) == ("sqlite", True, "Ada")
    assert rebuild(taken)._state.db == "sqlite"


@override_settings(DATABASE_ROUTERS=[Primary()])
def test_a_row_that_was_read_from_a_replica_is_captured_and_loaded_where_it_is_written(
    added: list[outbox.Pending],
) -> None:
    async_receiver([paid, m2m_changed], name="x")(nothing)
    book = stored(Book, using="sqlite", id=1)
    paid.send(None, instance=book, others=[{"deep": (book,)}])
    m2m_changed.send(Book.tags.through, instance=book, action="post_add", using="default")
    row = Reference("testapp.book", 1, "default")
    assert [pending.using for pending in added] == ["default", "default"]
    assert events(added)[0].arguments == {"instance": row, "others": [{"deep": (row,)}]}
    assert events(added)[1].arguments["instance"] == row


@override_settings(DATABASE_ROUTERS=[Primary()])
def test_a_lazy_object_is_what_it_stands_for(added: list[outbox.Pending]) -> None:
    async_receiver(paid, name="x")(nothing)
    paid.send(None, instance=SimpleLazyObject(lambda: stored(id=1, name="request.user")))
    assert events(added)[0].arguments == {"instance": Reference("testapp.author", 1, "default")}
    assert added[0].items[0].object_pk == "1"


@override_settings(DATABASE_ROUTERS=[Primary()])
def test_a_row_that_was_saved_elsewhere_is_loaded_from_there(added: list[outbox.Pending]) -> None:
    async_receiver(post_save, sender=Author, name="x")(nothing)
    send_saved(post_save, stored(using="sqlite", id=1), using="sqlite", created=True)
    assert added[0].using == "sqlite"
    assert events(added)[0].arguments["instance"] == Reference("testapp.author", 1, "sqlite")


def test_rows_classes_and_query_sets(added: list[outbox.Pending]) -> None:
    async_receiver([paid, post_delete], name="x")(nothing)
    author = stored(id=1, name="Ada")
    paid.send(Author, by_row={author: {author}}, kind=Book)
    post_delete.send(Author, instance=author, using="default", origin=Author.objects.all())
    first, second = events(added)
    assert first.sender == ModelClass("testapp.author")
    row = Reference("testapp.author", 1, "default")
    assert first.arguments == {"by_row": {row: {row}}, "kind": ModelClass("testapp.book")}
    assert second.arguments["origin"] == ModelClass("testapp.author", rows=True)
    assert second.arguments["instance"] == Snapshot("testapp.author", "default", {"id": 1, "name": "Ada"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"author": Author(name="Ada")}, r"Argument 'author' of \S+\.paid .* the testapp.Author is not saved, .*omit="),
        ({"rows": [Author.objects.none()]}, r"Argument 'rows' .*QuerySet has no lossless form"),
        ({"row": nothing}, r"Argument 'row' .* a builtins.function has no lossless form"),
    ],
)
def test_what_cannot_be_carried(arguments: Any, message: str, added: list[outbox.Pending]) -> None:
    receiver = async_receiver(paid, name="x")(nothing)
    with pytest.raises(CaptureError, match=message):
        paid.send(None, **arguments)
    receiver.disconnect()
    async_receiver(paid, name="y", omit=list(arguments))(nothing)
    paid.send(None, **arguments, fine=1)
    assert [event.arguments for event in events(added)] == [{"fine": 1}]


def test_a_file_is_carried_by_its_name() -> None:
    class Scan(models.Model):
        file = models.FileField()

        class Meta:
            app_label = "testapp"
            apps = Apps()

    assert freeze.snapshot(Scan(id=1, file="a.txt"), "default").fields["file"] == "a.txt"
    uploaded = Scan(id=1)
    uploaded.file = ContentFile(b"not saved yet", name="b.txt")
    assert freeze.snapshot(uploaded, "default").fields["file"] == "b.txt"


def test_a_sender_is_not_asked_for_its_text(added: list[outbox.Pending]) -> None:
    async_receiver([post_save, paid], name="x")(nothing)

    class Row(Author):
        class Meta:
            proxy = True
            app_label = "testapp"
            apps = Apps()

        def __str__(self) -> str:
            raise AssertionError("a query, or something personal")

    paid.send(stored(Row, id=1))
    paid.send("text")
    paid.send(Created)
    assert [pending.items[0].sender for pending in added] == [
        f"{__name__}.{Row.__qualname__}",
        "text",
        "signalq.conditions:Created",
    ]


def test_the_name_of_a_signal_is_not_that_of_the_script_that_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "p", paid, raising=False)
    assert naming._likeliness("__main__.p") > naming._likeliness(f"{__name__}.paid")
    assert naming._likeliness("shop.signals.paid") < naming._likeliness("x.paid")


# And back


DAMAGED = [
    Reference("testapp.author", "not a number", "default"),
    Reference("testapp.letter", "not a uuid", "default"),
    Reference("testapp.gone", 1, "default"),
    Reference("testapp", 1, "default"),
    Reference("testapp.author", 1, "gone"),
    Reference("testapp.author", [1], "default"),
]


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
def test_a_row_that_cannot_be_asked_for_is_damage(row: Reference) -> None:
    with pytest.raises(DecodeError):
        Loader().thaw([row])


def test_it_does_not_keep_its_neighbours_from_being_loaded_together(alias: str) -> None:
    books = [Book.objects.using(alias).create(title=title) for title in "ab"]
    rows = [Reference("testapp.book", book.pk, alias) for book in books]
    loader = Loader()
    with CaptureQueriesContext(connections[alias]) as queries:
        loader.prefetch([Event(uuid7(), "s", None, {"rows": [row]}) for row in [*DAMAGED, *rows]])
        assert loader.thaw({"rows": tuple(rows)}) == {"rows": tuple(books)}
    assert len(queries) == 1


def test_a_snapshot_of_a_model_that_has_changed_says_so() -> None:
    with pytest.raises(DecodeError, match=r"snapshot of testapp.author has age, colour, which the model no longer has"):
        rebuild(Snapshot("testapp.author", "default", {"id": 1, "colour": 1, "age": 2}))


SAVED = {
    "number": lambda: stored(id=7, name="Ada"),
    "uuid": lambda: stored(Letter, id=uuid.UUID(int=7)),
    "composite": lambda: stored(Seat, row="\u00e9", number=2),
    "of a type that only its field knows": lambda: stored(Ticket, code=Code("A 1")),
    "lazy": lambda: SimpleLazyObject(lambda: stored(id=7)),
}


@pytest.mark.parametrize("update_fields", [None, frozenset({"name"})])
@pytest.mark.parametrize("key", SAVED)
def test_a_saved_instance_is_captured_as_any_other_argument(
    key: str, update_fields: Any, added: list[outbox.Pending]
) -> None:
    """There is a shorter way for it, which must end at the same text."""
    async_receiver(post_save, name="any")(nothing)
    instance: Any = SAVED[key]()
    model = instance._meta.model
    post_save.send(model, instance=instance, created=True, raw=False, using="default", update_fields=update_fields)
    ((item,),) = [pending.items for pending in added]
    event = codec.load_event(item.payload)
    assert event.arguments["instance"] == freeze.freeze(instance, instance, "default")
    assert codec.dump_event(event, freeze.freeze) == item.payload


def test_capture_in_several_threads(added: list[outbox.Pending]) -> None:
    async_receiver(pre_save, sender=Author, name="x")(nothing)

    def save(name: str) -> None:
        for _ in range(50):
            author = Author(name=name)
            send_saved(pre_save, author)
            send_saved(post_save, author, created=True)

    threads = [threading.Thread(target=save, args=[str(number)]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [event.arguments["instance"].fields["name"] for event in events(added)]
    assert sorted(names) == sorted([str(number) for number in range(4)] * 50)

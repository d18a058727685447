"""Recording: every trap between a captured event and its row, on each database."""

from __future__ import annotations

import unittest
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import TestCase
from django.utils import timezone

from signalq import async_receiver, codec, publish, wire
from signalq.event import uuid7
from signalq.exceptions import OutboxMissing
from signalq.outbox import Item
from signalq.queryset import DeliveryQuerySet
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

happened = Signal()


@pytest.fixture(autouse=True)
def receiver(temporary_receivers: None) -> Any:
    @async_receiver(post_save, sender=Author, name="noted")
    def noted(instance: Author, using: str, **kwargs: Any) -> None:
        Effect.objects.using(using).create(receiver="noted", note=instance.name)

    return noted


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[wire.Item]:
    """What is handed to the publisher."""
    items: list[wire.Item] = []
    monkeypatch.setattr(publish, "send", items.extend)
    return items


def save(alias: str, name: str = "Ada") -> Author:
    return Author.objects.using(alias).create(name=name)


def names(alias: str) -> list[str]:
    work(alias)
    return sorted(Effect.objects.using(alias).values_list("note", flat=True))


savepoint = getattr(transaction, "savepoint_create", None) or transaction.savepoint  # renamed in Django 6.1


class Inserts:
    """Counts the INSERTs into the outbox."""

    def __init__(self, alias: str) -> None:
        self.count = 0
        self.wrapper = connections[alias].execute_wrapper(self)

    def __call__(self, execute: Any, sql: str, *rest: Any) -> Any:
        self.count += sql.startswith("INSERT") and "signalq_delivery" in sql
        return execute(sql, *rest)


@pytest.mark.fault(2)
def test_a_rolled_back_transaction_leaves_nothing(alias: str, sent: list[wire.Item]) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(alias):
        save(alias)
        raise ZeroDivisionError
    assert states(alias) == []
    assert sent == []
    save(alias, "next")
    assert names(alias) == ["next"]


@pytest.mark.fault(2)
def test_a_rolled_back_savepoint_leaves_nothing_of_itself(alias: str) -> None:
    with transaction.atomic(alias):
        save(alias, "before")
        with pytest.raises(ZeroDivisionError), transaction.atomic(alias):
            save(alias, "inside")
            with transaction.atomic(alias):
                save(alias, "deeper")
            raise ZeroDivisionError
        save(alias, "after")
    assert names(alias) == ["after", "before"]


@pytest.mark.fault(30)
def test_a_savepoint_made_by_hand(alias: str) -> None:
    with transaction.atomic(alias):
        save(alias, "before")
        outer = savepoint(alias)
        save(alias, "inside")
        inner = savepoint(alias)
        save(alias, "deeper")
        transaction.savepoint_rollback(inner, alias)
        save(alias, "still inside")
        transaction.savepoint_rollback(outer, alias)
        save(alias, "again")
        transaction.savepoint_commit(outer, alias)
        save(alias, "after")
    assert names(alias) == ["after", "again", "before"]


def test_one_insert_a_transaction(alias: str) -> None:
    inserts = Inserts(alias)
    with inserts.wrapper, transaction.atomic(alias):
        for number in range(50):
            save(alias, str(number))
    assert inserts.count == 1
    assert len(states(alias)) == 50


def test_a_thousand_rows_an_insert(alias: str) -> None:
    inserts = Inserts(alias)
    with inserts.wrapper, transaction.atomic(alias):
        author = save(alias)
        for _ in range(2_499):
            post_save.send(Author, instance=author, created=False, raw=False, using=alias, update_fields=None)
    assert inserts.count == 3
    assert len(states(alias)) == 2_500


AWKWARD = 'q\'uote "%s" \\u0041 \\ ünï 😀'


@pytest.mark.parametrize("number", [1, 50])
def test_few_rows_and_many_are_recorded_alike(alias: str, number: int) -> None:
    """There may be a statement for each."""

    @async_receiver(happened, name="late", using=alias, countdown=3600, ordered=True, key=lambda text, **kwargs: text)
    def late(text: str, **kwargs: Any) -> None:
        pass

    with transaction.atomic(alias):
        for count in range(number):
            happened.send("a sender", text=AWKWARD, count=count, nul="\0\ud800")
    rows = list(outbox(alias, receiver="late"))
    assert [codec.load_event(row.payload).arguments for row in rows] == [
        {"text": AWKWARD, "count": count, "nul": "\0\ud800"} for count in range(number)
    ]
    for row in rows:
        assert row.event_id == codec.load_event(row.payload).id
        assert (row.signal, row.sender, row.object_pk, row.key) == (f"{__name__}.happened", "a sender", "", AWKWARD)
        assert (row.state, row.errors, row.finished_at, row.attempt, row.repeats) == ("waiting", [], None, 0, 0)
        assert row.due_at is not None
        assert abs(row.due_at - row.created_at - timedelta(hours=1)) < timedelta(milliseconds=2)
        assert abs(timezone.now() - row.created_at) < timedelta(minutes=1)


@pytest.mark.parametrize("odd", ["line\nbreak", "", "back\\slash\t{}", "\u2028"])
@pytest.mark.parametrize("every", [1, 3])
def test_no_value_of_many_rows_gets_into_another(alias: str, odd: str, every: int) -> None:
    """They may go to the database column by column."""
    items = [
        Item(
            "noted", True, False, 0.0, None, str(uuid7()), "a.signal", "s", odd if n % every == 0 else str(n), "k", "{}"
        )
        for n in range(12)
    ]
    outbox(alias).record(items)
    rows = {str(row.event_id): row for row in outbox(alias)}
    assert len(rows) == 12
    for item in items:
        row = rows[item.id]
        assert (row.signal, row.sender, row.object_pk, row.key) == (item.signal, item.sender, item.object_pk, item.key)
        assert (row.payload, row.state, row.receiver) == ("{}", "queued", "noted")


def test_large_events_share_a_transaction_and_not_a_statement(alias: str) -> None:
    async_receiver(happened, name="large", using=alias)(lambda **kwargs: None)
    inserts = Inserts(alias)
    with inserts.wrapper, transaction.atomic(alias):
        for _ in range(20):
            happened.send("a sender", text="x" * 1_000_000)
    assert inserts.count == 5
    assert len(states(alias)) == 20


class Interrupt(BaseException):
    """Neither an Exception nor anything that Django knows."""


@pytest.mark.fault(27)
@pytest.mark.parametrize("error", [TypeError, KeyboardInterrupt, SystemExit, DatabaseError, Interrupt])
def test_whatever_the_insert_raises_nothing_is_committed(
    alias: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, sent: list[wire.Item]
) -> None:
    hooks: list[str] = []

    def broken(self: Any, items: Any) -> Any:
        list(Author.objects.using(alias).all())  # it has sent something already
        raise error("while the outbox was written")

    with monkeypatch.context() as patch:
        patch.setattr(DeliveryQuerySet, "record", broken)
        with pytest.raises(error), transaction.atomic(alias):
            save(alias)
            transaction.on_commit(lambda: hooks.append("ran"), using=alias)
    assert not Author.objects.using(alias).exists()
    assert states(alias) == []
    assert (hooks, sent, connections[alias].run_on_commit) == ([], [], [])
    assert connections[alias].get_autocommit()
    save(alias, "next")
    assert names(alias) == ["next"]


@pytest.mark.fault(27)
@pytest.mark.parametrize("error", [KeyboardInterrupt, DatabaseError])
def test_a_lost_connection_while_the_outbox_is_written(
    alias: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, items: Any) -> Any:
        connections[alias].connection.close()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DeliveryQuerySet, "record", broken)
        with pytest.raises((error, DatabaseError)), transaction.atomic(alias):
            save(alias)
    assert not Author.objects.using(alias).exists()
    save(alias, "next")
    assert names(alias) == ["next"]


@pytest.mark.fault(25)
def test_somebody_else_s_raising_hook_does_not_stop_the_publisher(alias: str, sent: list[wire.Item]) -> None:
    def raises() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), transaction.atomic(alias):
        transaction.on_commit(raises, using=alias)
        save(alias)
    assert [item.id for item in sent if isinstance(item, wire.Wake)] == [outbox(alias).get().pk]


def test_a_failing_commit_publishes_nothing(alias: str, sent: list[wire.Item], monkeypatch: pytest.MonkeyPatch) -> None:
    save(alias, "first")  # the connection is wrapped from here on
    sent.clear()

    def refuse() -> None:
        raise DatabaseError("could not serialize")

    with monkeypatch.context() as patch, pytest.raises(DatabaseError):
        patch.setattr(connections[alias], "_commit", refuse)
        with transaction.atomic(alias):
            save(alias, "lost")
    assert sent == []
    save(alias, "next")
    assert names(alias) == ["first", "next"]


def test_autocommit_writes_at_once(alias: str, sent: list[wire.Item]) -> None:
    save(alias)
    assert len(sent) == 1
    assert states(alias) == [("noted", "queued", 0)]


def test_autocommit_does_not_swallow_a_failing_insert(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, items: Any) -> Any:
        raise DatabaseError("no")

    monkeypatch.setattr(DeliveryQuerySet, "record", broken)
    with pytest.raises(DatabaseError):
        save(alias)


@pytest.fixture
def by_hand(alias: str) -> Iterator[None]:
    """Transactions are begun and ended by hand."""
    transaction.set_autocommit(False, using=alias)
    yield
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)


@pytest.mark.fault(30)
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("inner", [True, False])
def test_transactions_ended_by_hand(alias: str, inner: bool, sent: list[wire.Item]) -> None:
    def save_one(name: str) -> None:
        if inner:
            with transaction.atomic(alias):
                save(alias, name)
        else:
            save(alias, name)

    save_one("lost")
    transaction.rollback(using=alias)
    assert sent == []
    save_one("kept")
    assert sent == []
    transaction.commit(using=alias)
    assert len(sent) == 1
    transaction.commit(using=alias)
    assert len(sent) == 1
    # On SQLite a savepoint outside a transaction commits when it is released, and the event goes with its row.
    assert names(alias) == sorted(Author.objects.using(alias).values_list("name", flat=True))
    assert "kept" in names(alias)
    transaction.commit(using=alias)


@pytest.mark.fault(30)
@pytest.mark.usefixtures("by_hand")
def test_a_transaction_by_hand_that_ends_with_autocommit(alias: str, sent: list[wire.Item]) -> None:
    save(alias, "kept")
    if connections[alias].vendor == "postgresql":
        with pytest.raises(DatabaseError):  # it says so itself, and nothing has ended
            transaction.set_autocommit(True, using=alias)
        assert sent == []
        transaction.commit(using=alias)
    transaction.set_autocommit(True, using=alias)
    assert [item.id for item in sent if isinstance(item, wire.Wake)] == [outbox(alias).get().pk]
    with transaction.atomic(alias):
        save(alias, "next")
    assert len(sent) == 2
    assert names(alias) == ["kept", "next"]


@pytest.mark.fault(30)
@pytest.mark.usefixtures("by_hand")
def test_an_inner_atomic_that_rolls_back_in_a_transaction_by_hand(alias: str) -> None:
    save(alias, "before")
    with pytest.raises(ZeroDivisionError), transaction.atomic(alias):
        save(alias, "inside")
        with transaction.atomic(alias):
            save(alias, "deeper")
        raise ZeroDivisionError
    transaction.commit(using=alias)
    # Without an outer atomic block Django makes no savepoint of the inner one: what it undoes depends on the database.
    kept = set(Author.objects.using(alias).values_list("name", flat=True))
    assert set(outbox(alias).values_list("object_pk", flat=True)) == {
        str(pk) for pk in Author.objects.using(alias).values_list("pk", flat=True)
    }
    assert "before" in kept or not kept
    transaction.commit(using=alias)


def test_commit_inside_atomic_is_refused_and_records_nothing_twice(alias: str) -> None:
    save(alias, "first")
    with transaction.atomic(alias):
        save(alias, "second")
        with pytest.raises(transaction.TransactionManagementError):
            connections[alias].commit()
    assert names(alias) == ["first", "second"]


def test_a_broken_transaction_leaves_nothing(alias: str) -> None:
    first = save(alias, "first")
    with transaction.atomic(alias):
        save(alias, "second")
        with pytest.raises(IntegrityError):
            Author(pk=first.pk).save(using=alias, force_insert=True)
        # The error is swallowed: Django rolls the block back without raising.
    assert names(alias) == ["first"]


def test_a_missing_table_says_how_to_make_it(alias: str) -> None:
    connection = connections[alias]
    model = outbox(alias).model
    with connection.constraint_checks_disabled(), connection.schema_editor() as editor:
        editor.delete_model(model)
    try:
        way_out = f"manage.py migrate.*{'' if alias == 'default' else alias}"
        with pytest.raises(OutboxMissing, match=way_out), transaction.atomic(alias):
            save(alias)
        assert not Author.objects.using(alias).exists()
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(model)


def test_each_alias_has_its_own_outbox(every_alias: list[str]) -> None:
    for using in every_alias:
        with transaction.atomic(using):
            save(using, using)
    for using in every_alias:
        assert len(states(using)) == 1
        assert names(using) == [using]


def test_a_rollback_on_one_alias_leaves_the_other(every_alias: list[str]) -> None:
    one, other = every_alias[:2]
    with transaction.atomic(other):
        save(other)
        with pytest.raises(ZeroDivisionError), transaction.atomic(one):
            save(one)
            raise ZeroDivisionError
    assert (len(states(one)), len(states(other))) == (0, 1)


def test_in_a_test_case_the_commit_hooks_record(every_alias: list[str]) -> None:
    class Case(TestCase):
        databases = {"default"}

        def runTest(self) -> None:
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                save("default")
                assert states("default") == []
            assert len(callbacks) == 1
            assert states("default") == [("noted", "queued", 0)]

    result = unittest.TestResult()
    Case()(result)  # calling it, as a runner does, opens the transaction that run() alone does not
    assert result.wasSuccessful(), result.errors + result.failures


@pytest.mark.fault(32)
def test_odd_text_is_carried_losslessly(alias: str) -> None:
    odd = {
        "text": "nul \x00 lone \ud800 pair \ud800\udc00 \U0001f600 \\u0000",
        "numbers": [1e16, float("inf"), 2**70, -0.0, 10**5000],
    }
    got: list[Any] = []

    @async_receiver(happened, name="odd", using=alias)
    def odd_receiver(value: Any, **kwargs: Any) -> None:
        got.append(value)

    happened.send(None, value=odd)
    work(alias)
    assert got == [odd]
    assert [type(number) for number in got[0]["numbers"]] == [float, float, int, float, int]

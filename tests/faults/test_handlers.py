"""Handlers that misbehave, and rows that are not what they were: never silence, never done with its writes gone."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import celery
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, close_old_connections, connections, transaction
from django.db.models import F
from django.db.models.signals import post_save
from django.dispatch import Signal

from signalq import Event, async_batch_receiver, async_receiver, load, wire
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Book, BookProxy, Ebook, Effect

pytestmark = pytest.mark.usefixtures("temporary_receivers")

poked = Signal()


def save(alias: str, name: str = "Ada") -> Author:
    return Author.objects.using(alias).create(name=name)


def effect(alias: str, note: str = "") -> None:
    Effect.objects.using(alias).create(receiver="effect", note=note)


def effects(alias: str) -> list[str]:
    return sorted(Effect.objects.using(alias).values_list("note", flat=True))


def last_error(alias: str) -> dict[str, Any]:
    errors: list[dict[str, Any]] = outbox(alias).get().errors
    return errors[-1]


# 20: what an event is about is not there any more


@pytest.mark.fault(20)
def test_a_deleted_row_is_discarded_and_told(alias: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "signalq")
    async_receiver(post_save, sender=Author, name="late")(lambda **kwargs: effect(alias))
    author = save(alias)
    pk = author.pk
    author.delete()
    work(alias)
    assert (states(alias), effects(alias)) == ([("late", "discarded", 1)], [])
    reason = f"The testapp.author with primary key {pk} was deleted before its handler could run."
    assert last_error(alias)["message"] == reason
    assert f"late #{outbox(alias).get().pk} discarded: {reason}" in caplog.text


@pytest.mark.fault(20)
def test_a_snapshot_with_a_field_that_a_migration_renamed_is_dead_and_says_so(
    alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    async_receiver(post_save, sender=Author, name="as_it_was", snapshot=True)(lambda **kwargs: effect(alias))
    save(alias)
    outbox(alias).update(payload=outbox(alias).get().payload.replace('"email"', '"mail"'))
    work(alias)
    assert (states(alias), effects(alias)) == ([("as_it_was", "dead", 1)], [])
    assert "snapshot of testapp.author has mail, which the model no longer has" in last_error(alias)["message"]
    assert "a migration renamed or removed it" in last_error(alias)["message"]
    assert f"as_it_was #{outbox(alias).get().pk} is dead" in caplog.text


# 24: a dead letter replayed twice at once


def in_two_threads(alias: str, action: Callable[[], Any]) -> None:
    """Do `action` in two threads at once, each on a connection of its own. A failure of either is raised."""
    start, failures = threading.Barrier(2), []

    def body() -> None:
        try:
            connections[alias].ensure_connection()
            start.wait(20)
            action()
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connections.close_all()

    threads = [threading.Thread(target=body) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


@pytest.mark.fault(24)
def test_a_dead_letter_replayed_twice_at_once_has_one_effect(alias: str, figures: Callable[..., None]) -> None:
    mended = False

    @async_receiver(post_save, sender=Author, name="letter", max_retries=0)
    def letter(instance: Author, **kwargs: Any) -> None:
        if not mended:
            raise ValueError
        effect(alias, instance.name)

    rounds = 20
    for number in range(rounds):
        save(alias, str(number))
    work(alias)
    letters = list(outbox(alias, state="dead").values_list("pk", flat=True))
    assert len(letters) == rounds
    mended = True

    for pk in letters:

        def replay(pk: int = pk) -> None:
            with contextlib.suppress(CommandError):  # the other was first, as it is told
                call_command("signalq", "replay", str(pk), database=alias)
            work(alias)

        in_two_threads(alias, replay)
        work(alias)  # one may have queued it again after the other had looked
    found = effects(alias)
    assert found == sorted(str(number) for number in range(rounds))
    assert {state for _, state, _ in states(alias)} == {"done"}
    figures(deliveries=rounds, lost=rounds - len(set(found)), doubled=len(found) - len(set(found)))


# 26: a handler whose own save triggers itself; the plain one is in tests/test_execute.py


def plain(instance: Author, **kwargs: Any) -> None:
    instance.save()


async def coroutine(instance: Author, **kwargs: Any) -> None:
    await instance.asave()


def batch(events: list[Event]) -> None:
    for event in events:
        event.arguments["instance"].save()


def in_a_hook(instance: Author, **kwargs: Any) -> None:
    """After the commit, where the handler's own transaction cannot fail any more."""
    transaction.on_commit(instance.save, using=instance._state.db)


@pytest.mark.fault(26)
@pytest.mark.parametrize("handler", [plain, coroutine, batch])
def test_every_kind_of_handler_stops_at_the_cascade_limit(alias: str, settings: Any, handler: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "MAX_DEPTH": 2}
    decorate: Any = async_batch_receiver if handler is batch else async_receiver
    decorate(post_save, sender=Author, name="loops")(handler)
    save(alias)
    for _ in range(5):
        work(alias)
    assert [row[1] for row in states(alias)] == ["done", "done", "dead"]
    message = outbox(alias, state="dead").get().errors[-1]["message"]
    assert "loops -> loops -> loops" in message
    assert "MAX_DEPTH is 2" in message


@pytest.mark.fault(26)
@pytest.mark.parametrize("kind", ["one", "batch"])
def test_a_loop_through_the_handler_s_own_hook_stops_too(
    alias: str, settings: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "MAX_DEPTH": 2}
    if kind == "one":
        async_receiver(post_save, sender=Author, name="loops")(in_a_hook)
    else:

        @async_batch_receiver(post_save, sender=Author, name="loops")
        def loops(events: list[Event]) -> None:
            for event in events:
                in_a_hook(**event.arguments)

    save(alias)
    for _ in range(5):
        work(alias)
    # What it did had committed before the hook was refused.
    assert [row[1] for row in states(alias)] == ["done"] * 3
    assert "loops -> loops -> loops" in caplog.text


@pytest.mark.fault(26)
def test_a_transient_receiver_stops_at_the_cascade_limit(
    alias: str, app: celery.Celery, settings: Any, sent: list[wire.Item]
) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "MAX_DEPTH": 2}
    async_receiver(post_save, sender=Author, name="loops.lightly", durable=False)(plain)
    save(alias)
    results = []
    while sent and len(results) < 10:
        message = sent.pop()
        assert isinstance(message, wire.Message)
        results.append(app.tasks["loops.lightly"].apply((wire.seal(message),)))
    assert [result.state for result in results] == ["SUCCESS", "SUCCESS", "FAILURE"]
    assert "loops.lightly -> loops.lightly -> loops.lightly" in str(results[-1].result)


# 28: what a handler may do to the transaction that it runs in


def raw_error(alias: str) -> None:
    """A statement that fails, which Django is not told of."""
    with contextlib.suppress(DatabaseError):
        connections[alias].cursor().execute("SELECT nothing FROM nowhere")


def raw_error_then_a_query(alias: str) -> None:
    raw_error(alias)
    Author.objects.using(alias).count()


def error_then_a_query(alias: str) -> None:
    """Django refuses the second, and says nothing of the first."""
    with contextlib.suppress(DatabaseError):
        Author(pk=Author.objects.using(alias).latest("pk").pk).save(using=alias, force_insert=True)
    Author.objects.using(alias).count()


def close(alias: str) -> None:
    connections[alias].close()


def close_then_a_query(alias: str) -> None:
    connections[alias].close()
    effect(alias, "after")


def close_old(alias: str) -> None:
    """Django takes the autocommit that its own transaction has turned off for a reason to close."""
    close_old_connections()


def close_all(alias: str) -> None:
    connections.close_all()


def close_and_connect(alias: str) -> None:
    connections[alias].close()
    connections[alias].connect()


def roll_back(alias: str) -> None:
    connections[alias].cursor().execute("ROLLBACK")


def durable(alias: str) -> None:
    with transaction.atomic(using=alias, durable=True):
        raise AssertionError("it is nested")


CLOSED, SWALLOWED = "closed its database connection", "swallowed a database error"
DURABLE = "atomic(durable=True)"
BREAKS = {
    error_then_a_query: SWALLOWED,
    close: CLOSED,
    close_then_a_query: CLOSED,
    close_old: CLOSED,
    close_all: CLOSED,
    close_and_connect: CLOSED,
    roll_back: SWALLOWED,
    durable: DURABLE,
}


@pytest.mark.fault(28)
@pytest.mark.parametrize("kind", ["one", "batch"])
@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_a_handler_that_breaks_its_transaction_is_told_what_it_did_and_the_way_out(
    alias: str, kind: str, breaks: Callable[[str], None]
) -> None:
    def handler(*events: Any, **kwargs: Any) -> None:
        effect(alias, "before")
        breaks(alias)

    decorate: Any = async_batch_receiver if kind == "batch" else async_receiver
    decorate(post_save, sender=Author, name="breaks", max_retries=0)(handler)
    save(alias)
    work(alias)
    assert (states(alias), effects(alias)) == ([("breaks", "dead", 1)], [])
    assert BREAKS[breaks] in last_error(alias)["message"]
    assert "atomic=False" in last_error(alias)["message"]
    save(alias)  # the connection is usable


@pytest.mark.fault(28)
@pytest.mark.parametrize("breaks", [raw_error, raw_error_then_a_query])
def test_an_error_that_django_is_not_told_of_is_never_done_with_writes_gone(
    alias: str, breaks: Callable[[str], None]
) -> None:
    @async_receiver(post_save, sender=Author, name="raw", max_retries=0)
    def raw(**kwargs: Any) -> None:
        effect(alias, "before")
        breaks(alias)

    save(alias)
    work(alias)
    if alias == "default":  # PostgreSQL: any error breaks the transaction; elsewhere the statement alone is undone
        assert (states(alias), effects(alias)) == ([("raw", "dead", 1)], [])
        assert SWALLOWED in last_error(alias)["message"]
        assert "transaction.atomic()" in last_error(alias)["message"]
    else:
        assert (states(alias), effects(alias)) == ([("raw", "done", 1)], ["before"])


@pytest.mark.fault(28)
def test_without_the_settling_transaction_a_durable_block_is_fine(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="outside", atomic=False)
    def outside(**kwargs: Any) -> None:
        with transaction.atomic(using=alias, durable=True):
            effect(alias, "kept")
        connections[alias].close()

    save(alias)
    work(alias)
    assert (states(alias), effects(alias)) == ([("outside", "done", 1)], ["kept"])


# 31: one object under several names in one chunk


@pytest.mark.fault(31)
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("first", "second"), [(Book, Ebook), (Ebook, Book), (Book, BookProxy), (BookProxy, Ebook)], ids=lambda m: m.__name__
)
def test_one_row_under_two_models_is_loaded_again_for_the_second(
    alias: str, first: Any, second: Any, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "FRESH", 60.0)  # nor does its age have it loaded again
    seen: list[tuple[str, str]] = []

    @async_receiver(poked, name="both", using=alias, retry_backoff=100)
    def both(instance: Book, **kwargs: Any) -> None:
        seen.append((type(instance).__name__, instance.status))
        instance.status = "changed"
        instance.save()
        Book.objects.using(alias).filter(pk=instance.pk).update(status=F("title"))
        if fails and len(seen) == 1:
            raise ValueError

    book = Ebook.objects.using(alias).create(title="written")
    for model in (first, second):
        poked.send(None, instance=model.objects.using(alias).get(pk=book.pk))
    work(alias)
    assert seen == [(first.__name__, "draft"), (second.__name__, "draft" if fails else "written")]


@pytest.mark.fault(31)
def test_a_batch_that_is_called_again_sees_the_database_and_not_its_first_try(alias: str) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"
        sqlite_errorcode = 5

    seen: list[list[int]] = []

    @async_batch_receiver(post_save, sender=Author, name="counts", when=lambda created, **kwargs: created)
    def counts(events: list[Event]) -> None:
        seen.append([event.arguments["instance"].counter for event in events])
        for event in events:
            event.arguments["instance"].counter += 1
            event.arguments["instance"].save()
        if len(seen) < 3:
            raise DatabaseError(1213, "deadlock") from Deadlock()

    for name in "ab":
        save(alias, name)
    work(alias)
    assert seen == [[0, 0]] * 3
    assert set(Author.objects.using(alias).values_list("counter", flat=True)) == {1}
    assert {row[1:] for row in states(alias)} == {("done", 1)}


@pytest.mark.fault(31)
def test_a_damaged_event_in_a_batch_is_told_by_itself(alias: str) -> None:
    sizes: list[int] = []
    async_batch_receiver(post_save, sender=Author, name="some")(lambda events: sizes.append(len(events)))
    for name in "abc":
        save(alias, name)
    damaged = outbox(alias)[1]
    envelope = json.loads(damaged.payload)
    envelope["signal"] = 5
    outbox(alias, pk=damaged.pk).update(payload=json.dumps(envelope))
    work(alias)
    assert sizes == [2]
    assert sorted(state for _, state, _ in states(alias)) == ["dead", "done", "done"]

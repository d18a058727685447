"""The test kit: what tests of a project see, in a TestCase where nothing commits and with real commits alike."""

from __future__ import annotations

import threading
import unittest
from smtplib import SMTPException
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import Signal
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from signalq import (
    AsyncReceiver,
    Changed,
    Created,
    Discard,
    Retry,
    async_batch_receiver,
    async_receiver,
    current_delivery,
    muted,
    publish,
)
from signalq.exceptions import CascadeError, LeaseLost, SignalqError
from signalq.models import Delivery
from signalq.receivers import registry
from signalq.testing import Captured, Deliveries, DeliveriesMixin, capturing
from tests.testapp.models import Author, Book, Effect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.plugin import DjangoDbBlocker

pytestmark = pytest.mark.usefixtures("temporary_receivers")

rang = Signal()


@pytest.fixture(params=["TestCase", "commits"])
def where(request: pytest.FixtureRequest, alias: str) -> Iterator[str]:
    """An alias, inside the transaction of a TestCase and with real commits."""
    if request.param == "commits":
        yield alias
        return
    case = type("Case", (TestCase,), {"databases": {alias}, "runTest": lambda self: None})
    case.setUpClass()
    test = case()
    test._pre_setup()
    yield alias
    test._post_teardown()
    case.tearDownClass()
    case.doClassCleanups()


def save(alias: str, name: str = "Ada") -> Author:
    return Author.objects.using(alias).create(name=name)


def note(alias: str, text: object = "") -> None:
    Effect.objects.using(alias).create(receiver="effect", note=str(text))


def notes(alias: str) -> list[str]:
    return list(Effect.objects.using(alias).order_by("pk").values_list("note", flat=True))


def told(captured: list[Captured]) -> list[tuple[str, int]]:
    return [(item.state, item.attempt) for item in captured]


def noted(alias: str, **options: Any) -> AsyncReceiver[..., Any]:
    @async_receiver(post_save, sender=Author, name="noted", **options)
    def noted(instance: Author, **kwargs: Any) -> None:
        note(alias, instance.name)

    return noted


def test_a_delivery_is_shown_with_what_its_handler_will_get(where: str, deliveries: Deliveries) -> None:
    receiver = noted(where, when=Created())
    assert (len(deliveries), deliveries.all(), deliveries.to(receiver)) == (0, [], [])
    author = save(where)
    (captured,) = deliveries.to(receiver)
    assert (captured.receiver, captured.object_pk, captured.using) == ("noted", str(author.pk), where)
    assert (captured.state, captured.attempt, captured.errors) == ("queued", 0, ())
    assert captured.event.signal == "django.db.models.signals.post_save"
    assert captured.arguments["instance"] == author
    assert captured.arguments["created"] is True
    assert list(deliveries) == deliveries.all() == deliveries.to("noted") == [captured]
    assert notes(where) == []


def test_drain_runs_it_once_and_shows_what_became_of_it(where: str, deliveries: Deliveries) -> None:
    receiver = noted(where)
    save(where)
    assert told(deliveries.drain()) == [("done", 1)]
    assert deliveries.drain() == []
    assert told(deliveries.to(receiver)) == [("done", 1)]
    assert notes(where) == ["Ada"]
    save(where, "Grace")
    assert [run.arguments["instance"].name for run in deliveries.drain()] == ["Grace"]
    assert notes(where) == ["Ada", "Grace"]


def test_a_rolled_back_block_leaves_nothing(where: str, deliveries: Deliveries) -> None:
    noted(where)
    with pytest.raises(ZeroDivisionError), transaction.atomic(where):
        save(where)
        raise ZeroDivisionError
    assert deliveries.all() == deliveries.drain() == []


def test_an_open_block_shows_nothing_yet(where: str, deliveries: Deliveries) -> None:
    noted(where)
    with transaction.atomic(where):
        save(where, "outer")
        with transaction.atomic(where):
            save(where, "inner")
        with pytest.raises(ZeroDivisionError), transaction.atomic(where):
            save(where, "undone")
            raise ZeroDivisionError
        assert deliveries.all() == deliveries.drain() == []
    assert [run.state for run in deliveries.drain()] == ["done", "done"]
    assert notes(where) == ["outer", "inner"]


def test_what_was_captured_before_an_open_block_is_shown_in_it(where: str, deliveries: Deliveries) -> None:
    noted(where)
    save(where, "before")
    with transaction.atomic(where):
        save(where, "within")
        assert [item.arguments["instance"].name for item in deliveries] == ["before"]
    assert len(deliveries) == 2


@pytest.mark.parametrize("durable", [True, False])
def test_a_handler_s_error_is_raised_and_what_comes_after_it_stays(
    where: str, deliveries: Deliveries, durable: bool
) -> None:
    @async_receiver(post_save, sender=Author, name="fails", durable=durable, using=where)
    def fails(instance: Author, **kwargs: Any) -> None:
        if instance.name == "Ada":
            raise ZeroDivisionError("by Ada")

    save(where, "Ada")
    save(where, "Grace")
    with pytest.raises(ZeroDivisionError, match="by Ada"):
        deliveries.drain()
    assert told(deliveries.all()) == [("waiting", 1), ("queued", 0)]
    assert told(deliveries.drain(catch=True)) == [("waiting", 2), ("done", 1)]
    assert "by Ada" in deliveries.all()[0].errors[-1]["message"]


@pytest.mark.parametrize(("raised", "state"), [(Discard("no"), "discarded"), (ValueError(), "dead")])
@pytest.mark.parametrize("durable", [True, False])
def test_what_is_given_up_is_dead_or_discarded(
    where: str, deliveries: Deliveries, durable: bool, raised: Exception, state: str
) -> None:
    @async_receiver(post_save, sender=Author, name="gives_up", durable=durable, max_retries=0)
    def gives_up(**kwargs: Any) -> None:
        raise raised

    save(where)
    assert told(deliveries.drain(catch=True)) == [(state, 1)]
    assert deliveries.drain() == []


def test_a_row_that_is_gone_is_no_error(where: str, deliveries: Deliveries) -> None:
    noted(where)
    save(where).delete()
    assert told(deliveries.drain()) == [("discarded", 1)]


def test_a_retry_that_a_handler_asks_for_is_raised(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="again")
    def again(**kwargs: Any) -> None:
        raise Retry("later", countdown=60)

    save(where)
    with pytest.raises(Retry, match="later"):
        deliveries.drain()


@pytest.mark.parametrize("durable", [True, False])
def test_countdowns_are_not_waited_for(where: str, deliveries: Deliveries, durable: bool) -> None:
    receiver = noted(where, countdown=3600, durable=durable)
    save(where)
    assert told(deliveries.to(receiver)) == [("waiting", 0)]
    assert told(deliveries.drain()) == [("done", 1)]
    assert notes(where) == ["Ada"]


def test_what_handlers_cause_is_drained_too(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="first")
    def first(instance: Author, **kwargs: Any) -> None:
        Book.objects.using(where).create(title="Notes", author=instance)

    @async_receiver(post_save, sender=Book, name="second", durable=False)
    def second(instance: Book, **kwargs: Any) -> None:
        delivery = current_delivery()
        assert delivery is not None
        note(where, f"{instance.title} by way of {'/'.join(delivery.event.chain)}")

    save(where)
    assert [run.receiver for run in deliveries.drain()] == ["first", "second"]
    assert notes(where) == ["Notes by way of first"]


def test_a_cascade_without_an_end_is_stopped(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="loops")
    def loops(instance: Author, **kwargs: Any) -> None:
        instance.save(using=where)

    save(where)
    with pytest.raises(CascadeError, match="loops -> loops"):
        deliveries.drain()


def test_a_failed_handler_leaves_nothing_and_causes_nothing(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="half")
    def half(**kwargs: Any) -> None:
        Book.objects.using(where).create(title="undone")
        raise ZeroDivisionError

    async_receiver(post_save, sender=Book, name="caused")(lambda **kwargs: None)
    save(where)
    deliveries.drain(catch=True)
    assert not Book.objects.using(where).exists()
    assert [item.receiver for item in deliveries] == ["half"]


def test_twice_is_as_if_a_worker_had_died_before_its_commit(where: str, deliveries: Deliveries) -> None:
    attempts: list[Any] = []

    @async_receiver(post_save, sender=Author, name="outside")
    def outside(**kwargs: Any) -> None:
        delivery = current_delivery()
        assert delivery is not None
        attempts.append((delivery.attempt, delivery.idempotency_key))
        note(where)
        rang.send(None)

    async_receiver(rang, name="caused", using=where)(lambda **kwargs: None)
    save(where)
    run, caused = deliveries.drain(times=2)
    assert (run.state, run.attempt, caused.attempt) == ("done", 2, 2)
    assert [number for number, _ in attempts] == [1, 2]
    assert len({key for _, key in attempts}) == 1
    assert notes(where) == [""]
    assert len(deliveries) == 2


@pytest.mark.parametrize("options", [{"atomic": False}, {"durable": False}])
def test_twice_outside_a_transaction_is_twice(where: str, deliveries: Deliveries, options: dict[str, Any]) -> None:
    noted(where, **options)
    save(where)
    assert told(deliveries.drain(times=2)) == [("done", 2)]
    assert notes(where) == ["Ada", "Ada"]


def test_a_failure_ends_the_repetition(where: str, deliveries: Deliveries) -> None:
    calls: list[int] = []

    @async_receiver(post_save, sender=Author, name="fails")
    def fails(**kwargs: Any) -> None:
        calls.append(1)
        raise ZeroDivisionError

    save(where)
    assert told(deliveries.drain(catch=True, times=3)) == [("waiting", 1)]
    assert len(calls) == 1
    with pytest.raises(ValueError, match="once at the least"):
        deliveries.drain(times=0)


def test_transient_deliveries_are_captured_and_drained(where: str, deliveries: Deliveries) -> None:
    @async_receiver(rang, name="rung", durable=False, using=where)
    def rung(tone: str, **kwargs: Any) -> None:
        note(where, tone)

    rang.send(None, tone="a")
    assert deliveries.to(rung)[0].arguments == {"tone": "a"}
    assert told(deliveries.drain()) == [("done", 1)]
    assert (notes(where), deliveries.drain()) == (["a"], [])
    assert not Delivery.objects.using(where).exists()


def test_arguments_make_a_real_round_trip(where: str, deliveries: Deliveries) -> None:
    got: list[Any] = []

    @async_receiver(rang, name="rung", using=where)
    def rung(thing: Any, **kwargs: Any) -> None:
        got.append(thing)

    thing = {"when": [1, (2, 3)]}
    rang.send(None, thing=thing)
    thing["when"] = []
    deliveries.drain()
    assert got == [{"when": [1, (2, 3)]}]


def test_batches_come_together(where: str, deliveries: Deliveries) -> None:
    @async_batch_receiver(post_save, sender=Author, name="batched", size=2)
    def batched(events: list[Any]) -> None:
        note(where, " ".join(event.arguments["instance"].name for event in events))

    for name in "abc":
        save(where, name)
    assert len(deliveries.drain()) == 3
    assert notes(where) == ["a b", "c"]


def test_a_batch_is_no_larger_than_a_message(where: str, deliveries: Deliveries, settings: Any) -> None:
    settings.SIGNALQ = {"CHUNK": 2}

    @async_batch_receiver(post_save, sender=Author, name="batched")
    def batched(events: list[Any]) -> None:
        note(where, len(events))
        if len(events) == 2:
            raise ZeroDivisionError

    for name in "abc":
        save(where, name)
    assert told(deliveries.drain(catch=True)) == [("waiting", 1), ("waiting", 1), ("done", 1)]
    assert len(deliveries.drain()) == 2
    assert notes(where) == ["1", "1", "1"]


def test_a_handler_that_loses_its_delivery_is_an_error(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="empties")
    def empties(**kwargs: Any) -> None:
        Delivery.objects.using(where).all().delete()

    save(where)
    with pytest.raises(LeaseLost, match="empties"):
        deliveries.drain()


def test_what_has_no_receiver_any_more_stays(where: str, deliveries: Deliveries) -> None:
    receiver = noted(where)
    save(where)
    registry.remove(receiver)
    assert deliveries.drain() == []
    assert told(deliveries.to(receiver)) == [("queued", 0)]


def test_coalescing_runs_once_for_all(where: str, deliveries: Deliveries) -> None:
    noted(where, coalesce=60)
    author = save(where)
    author.name = "Grace"
    author.save(using=where)
    assert len(deliveries) == 2
    assert told(deliveries.drain()) == [("done", 1)]
    assert sorted(item.state for item in deliveries) == ["discarded", "done"]
    assert notes(where) == ["Grace"]


def test_a_failing_one_holds_back_its_own_object_only(where: str, deliveries: Deliveries) -> None:
    failing = [True]

    @async_receiver(post_save, sender=Author, name="ordered", ordered=True)
    def ordered(instance: Author, **kwargs: Any) -> None:
        if instance.name == "Ada" and failing:
            raise ZeroDivisionError
        note(where, instance.name)

    ada = save(where, "Ada")
    ada.save(using=where)
    save(where, "Grace")
    deliveries.drain(catch=True)
    assert told(deliveries.all()) == [("waiting", 1), ("queued", 0), ("done", 1)]
    failing.clear()
    assert len(deliveries.drain()) == 2
    assert notes(where) == ["Grace", "Ada", "Ada"]


def test_changes_are_there(where: str, deliveries: Deliveries) -> None:
    async_receiver(post_save, sender=Author, name="renamed", when=Changed("name"))(lambda **kwargs: None)
    with muted():
        author = save(where)
    author.name = "Grace"
    author.save(using=where)
    (captured,) = deliveries
    assert captured.event.changes == {"name": ("Ada", "Grace")}


def test_a_deleted_row_arrives_as_it_was(where: str, deliveries: Deliveries) -> None:
    async_receiver(post_delete, sender=Author, name="deleted")(lambda **kwargs: None)
    save(where).delete()
    assert deliveries.to("deleted")[0].arguments["instance"].name == "Ada"


def test_a_coroutine_handler_and_a_test_in_an_event_loop(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="later")
    async def later(instance: Author, **kwargs: Any) -> None:
        await Effect.objects.using(where).acreate(receiver="later", note=instance.name)

    async def test() -> None:
        await Author.objects.using(where).acreate(name="Ada")
        assert told(await sync_to_async(deliveries.drain)()) == [("done", 1)]
        with pytest.raises(SignalqError, match="sync_to_async"):
            deliveries.all()

    async_to_sync(test)()
    assert notes(where) == ["Ada"]


def test_the_hooks_of_a_handler_run_where_the_test_s_hooks_do(where: str, deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="hooked")
    def hooked(**kwargs: Any) -> None:
        transaction.on_commit(lambda: note(where, "hook"), using=where)

    save(where)
    with TestCase.captureOnCommitCallbacks(using=where, execute=True):
        deliveries.drain()
    assert notes(where) == ["hook"]


def test_what_was_replayed_is_drained_again(where: str, deliveries: Deliveries) -> None:
    failing = [True]

    @async_receiver(post_save, sender=Author, name="mended", max_retries=0)
    def mended(**kwargs: Any) -> None:
        if failing:
            raise ZeroDivisionError

    save(where)
    assert told(deliveries.drain(catch=True)) == [("dead", 1)]
    assert deliveries.drain() == []
    failing.clear()
    Delivery.objects.using(where).replay()
    assert told(deliveries.drain()) == [("done", 2)]


def test_a_transaction_committed_by_hand_is_captured(alias: str, deliveries: Deliveries) -> None:
    noted(alias, durable=False)
    transaction.set_autocommit(False, using=alias)
    save(alias)
    transaction.commit(using=alias)
    transaction.set_autocommit(True, using=alias)
    assert told(deliveries.drain()) == [("done", 1)]


def test_another_thread_s_events_are_captured(alias: str, deliveries: Deliveries) -> None:
    noted(alias)

    def elsewhere() -> None:
        save(alias, "durable")
        connections[alias].close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert told(deliveries.drain()) == [("done", 1)]


def test_several_databases(every_alias: list[str], deliveries: Deliveries) -> None:
    @async_receiver(post_save, sender=Author, name="copied")
    def copied(instance: Author, using: str, **kwargs: Any) -> None:
        note(using, instance.name)

    for using in every_alias:
        save(using, using)
    assert [item.using for item in deliveries] == every_alias
    deliveries.drain()
    assert [notes(using) for using in every_alias] == [[using] for using in every_alias]


def test_each_test_starts_empty(where: str) -> None:
    noted(where)
    save(where, "before")
    with capturing() as deliveries:
        assert (len(deliveries), deliveries.drain()) == (0, [])
        save(where, "within")
        assert len(deliveries.drain()) == 1
    assert notes(where) == ["within"]


@pytest.fixture
def put(settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the publisher is given, with publishing on."""
    items: list[Any] = []
    settings.SIGNALQ = {"PUBLISH": True}
    monkeypatch.setattr(publish.publisher, "put", items.extend)
    return items


def test_nothing_reaches_the_broker_whatever_the_settings_say(where: str, put: list[Any]) -> None:
    noted(where)
    async_receiver(rang, name="rung", durable=False, using=where)(lambda **kwargs: None)
    with capturing() as deliveries:
        with TestCase.captureOnCommitCallbacks(using=where, execute=True):
            save(where)
            rang.send(None)
        assert notes(where) == []
        assert len(deliveries.drain()) == 2
    assert put == []


def test_afterwards_it_is_published_again(alias: str, put: list[Any]) -> None:
    noted(alias)
    with pytest.raises(ZeroDivisionError), capturing():
        raise ZeroDivisionError
    save(alias)
    assert len(put) == 1


@pytest.mark.parametrize("execute", [True, False])
def test_with_the_commit_hooks_captured_nothing_comes_twice(where: str, deliveries: Deliveries, execute: bool) -> None:
    receiver = noted(where)
    rung = async_receiver(rang, name="rung", durable=False, using=where)(lambda **kwargs: None)
    with TestCase.captureOnCommitCallbacks(using=where, execute=execute):
        save(where)
        rang.send(None)
    assert (len(deliveries.to(receiver)), len(deliveries.to(rung))) == (1, 1)
    assert told(deliveries.drain()) == [("done", 1), ("done", 1)]
    assert notes(where) == ["Ada"]


def test_a_name_that_is_none_is_told_with_the_nearest(deliveries: Deliveries) -> None:
    async_receiver(post_save, sender=Author, name="shop.receivers.welcome", aliases=["old"])(lambda **kwargs: None)
    for wrong in ("welcome", "shop.receivers.welcom"):
        with pytest.raises(LookupError, match=r"Did you mean 'shop\.receivers\.welcome'"):
            deliveries.to(wrong)
    with pytest.raises(LookupError, match=r"Known: .*shop\.receivers\.welcome"):
        deliveries.to("xyz")
    with pytest.raises(TypeError, match="made by async_receiver"):
        deliveries.to(save)  # type: ignore[arg-type]
    assert deliveries.to("old") == []


def test_without_the_database_it_says_what_to_do(
    alias: str, deliveries: Deliveries, django_db_blocker: DjangoDbBlocker
) -> None:
    noted(alias)
    assert deliveries.drain() == []
    save(alias)
    with django_db_blocker.block(), pytest.raises(SignalqError, match=r"pytest\.mark\.django_db"):
        deliveries.drain()


def outcome(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


@pytest.mark.parametrize("base", [TestCase, TransactionTestCase])
def test_the_mixin_in_both_kinds_of_test_case(every_alias: list[str], base: type[TransactionTestCase]) -> None:
    receiver = noted("default")

    class Case(DeliveriesMixin, base):  # type: ignore[valid-type, misc]
        databases = {"default"}
        available_apps = ["signalq", "tests.testapp"]

        @classmethod
        def setUpTestData(cls) -> None:
            save("default", "before any test")

        def setUp(self) -> None:
            save("default", "set up")

        def test_one(self) -> None:
            assert len(self.deliveries.to(receiver)) == 1
            self.deliveries.drain()
            assert notes("default") == ["set up"]

        test_two = test_one

    result = outcome(Case)
    assert result.wasSuccessful(), result.errors + result.failures
    assert result.testsRun == 2


def test_a_simple_test_case_says_what_to_do(every_alias: list[str]) -> None:
    class Case(DeliveriesMixin, SimpleTestCase):
        def test(self) -> None:
            assert self.deliveries.drain() == []
            noted("default")
            save("default")

    ((_, error),) = outcome(Case).errors + outcome(Case).failures
    assert "SimpleTestCase" in error


def test_a_failing_attempt_waits_and_the_next_drain_is_the_next_attempt(where: str, deliveries: Deliveries) -> None:
    down, sent = [True], []

    @async_receiver(post_save, sender=Author, name="welcome", when=Created())
    def welcome(instance: Author, **kwargs: Any) -> None:
        if down:
            raise SMTPException("451 try again later")
        sent.append(instance.name)

    save(where)
    deliveries.drain(catch=True)
    (delivery,) = deliveries.to(welcome)
    assert (delivery.state, delivery.attempt) == ("waiting", 1)
    assert "451" in delivery.errors[-1]["message"]
    down.clear()
    assert told(deliveries.drain()) == [("done", 2)]
    assert sent == ["Ada"]


def test_a_call_of_the_receiver_needs_no_kit(where: str) -> None:
    receiver = noted(where)
    with muted():
        author = save(where)
    receiver(sender=Author, instance=author, created=True)
    assert notes(where) == ["Ada"]

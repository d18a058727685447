"""The flow from a save to a settled delivery, on each database."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from signalq import Created, Discard, Retry, async_receiver, current_delivery
from tests.steps import come_due, outbox, states, sweep, work
from tests.testapp.models import Author, Book, Effect, Tag

pytestmark = pytest.mark.usefixtures("temporary_receivers")


def note(alias: str, receiver: str, text: object = "") -> None:
    Effect.objects.using(alias).create(receiver=receiver, note=str(text))


def effects(alias: str) -> list[tuple[str, str]]:
    return list(Effect.objects.using(alias).order_by("pk").values_list("receiver", "note"))


def test_a_save_is_handled_after_its_commit(alias: str) -> None:
    @async_receiver(post_save, sender=Author, when=Created(), name="greet")
    def greet(sender: type[Author], instance: Author, created: bool, **kwargs: Any) -> None:
        assert sender is Author
        assert created is True
        assert kwargs["using"] == alias
        assert kwargs["signal"] is post_save
        note(alias, "greet", instance.name)

    with transaction.atomic(alias):
        Author.objects.using(alias).create(name="Ada")
        assert states(alias) == []
    assert states(alias) == [("greet", "queued", 0)]
    work(alias)
    assert states(alias) == [("greet", "done", 1)]
    assert effects(alias) == [("greet", "Ada")]
    delivery = outbox(alias).get()
    assert (delivery.sender, delivery.signal) == ("testapp.author", "django.db.models.signals.post_save")
    assert delivery.finished_at is not None
    assert delivery.due_at is None


def test_the_handler_sees_the_row_as_it_is_now(alias: str) -> None:
    @async_receiver(post_save, sender=Author, when=Created(), name="late")
    def late(instance: Author, **kwargs: Any) -> None:
        note(alias, "late", instance.name)

    author = Author.objects.using(alias).create(name="before")
    Author.objects.using(alias).filter(pk=author.pk).update(name="after")
    work(alias)
    assert effects(alias) == [("late", "after")]


@pytest.mark.parametrize("signal", [pre_delete, post_delete])
def test_a_deleted_row_is_handed_over_as_it_was(alias: str, signal: Any) -> None:
    @async_receiver(signal, sender=Author, name="obituary")
    def obituary(instance: Author, origin: Any, **kwargs: Any) -> None:
        note(alias, "obituary", f"{instance.name} {instance.email} {instance.pk} {origin == instance}")

    author = Author.objects.using(alias).create(name="Ada", email="ada@example.org")
    pk = author.pk
    author.delete()
    work(alias)
    assert effects(alias) == [("obituary", f"Ada ada@example.org {pk} True")]


def test_a_deletion_by_query_set_has_one_as_its_origin(alias: str) -> None:
    @async_receiver(post_delete, sender=Author, name="obituary")
    def obituary(instance: Author, origin: Any, **kwargs: Any) -> None:
        note(alias, "obituary", f"{instance.name} {origin.model.__name__} {len(origin)}")

    Author.objects.using(alias).create(name="Ada")
    Author.objects.using(alias).all().delete()
    work(alias)
    assert effects(alias) == [("obituary", "Ada Author 0")]


def test_m2m_changed(alias: str) -> None:
    @async_receiver(m2m_changed, sender=Book.tags.through, name="tagged")
    def tagged(sender: Any, instance: Book, action: str, pk_set: set[int], model: Any, **kwargs: Any) -> None:
        if action == "post_add":
            assert sender is Book.tags.through
            assert model is Tag
            note(alias, "tagged", sorted(pk_set))

    book = Book.objects.using(alias).create(title="Notes")
    tags = [Tag.objects.using(alias).create(name=name) for name in "ab"]
    book.tags.add(*tags)
    work(alias)
    assert effects(alias) == [("tagged", str([tag.pk for tag in tags]))]


@pytest.mark.parametrize("in_transaction", [True, False])
def test_pre_save_carries_the_instance_as_it_was_about_to_be(alias: str, in_transaction: bool) -> None:
    @async_receiver(pre_save, sender=Author, name="about_to")
    def about_to(instance: Author, **kwargs: Any) -> None:
        note(alias, "about_to", f"{instance.name} {instance.pk} {instance._state.adding}")

    if in_transaction:
        with transaction.atomic(alias):
            Author.objects.using(alias).create(name="Ada")
    else:
        Author.objects.using(alias).create(name="Ada")
    work(alias)
    assert effects(alias) == [("about_to", "Ada None True")]


def test_a_pre_save_of_a_save_that_fails_is_no_event(alias: str) -> None:
    @async_receiver(pre_save, sender=Author, name="ghost")
    def ghost(**kwargs: Any) -> None:
        raise AssertionError("it was never saved")

    first = Author.objects.using(alias).create(name="Ada")
    outbox(alias).delete()
    second = Author(pk=first.pk, name="Eve")
    with pytest.raises(IntegrityError):
        second.save(using=alias, force_insert=True)
    assert states(alias) == []


def test_raw_is_skipped(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="not_raw")
    def not_raw(**kwargs: Any) -> None: ...

    author = Author(name="fixture")
    author.save_base(raw=True, using=alias)
    assert states(alias) == []


def test_one_event_of_three_receivers_has_one_id(alias: str) -> None:
    for name in ("a", "b", "c"):
        async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    Author.objects.using(alias).create(name="Ada")
    assert outbox(alias).count() == 3
    assert len(set(outbox(alias).values_list("event_id", flat=True))) == 1


def test_a_row_that_is_gone_is_discarded_with_the_reason(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="too_late")
    def too_late(instance: Author, **kwargs: Any) -> None:
        raise AssertionError("there is no row to handle")

    Author.objects.using(alias).create(name="Ada").delete()
    work(alias)
    delivery = outbox(alias).get()
    assert delivery.state == "discarded"
    assert "was deleted before its handler could run" in delivery.errors[-1]["message"]


def test_a_failure_is_recorded_retried_and_forgiven(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="fails_twice", retry_backoff=60, retry_jitter=False)
    def fails_twice(**kwargs: Any) -> None:
        note(alias, "fails_twice", "a write that must go")
        if current_delivery().attempt <= 2:
            raise ValueError("not yet \x00 \ud800")

    Author.objects.using(alias).create(name="Ada")
    for attempt in (1, 2):
        work(alias)
        assert states(alias) == [("fails_twice", "waiting", attempt)]
        assert effects(alias) == []
        sweep(alias)
        assert states(alias) == [("fails_twice", "waiting", attempt)]
        come_due(alias)
        sweep(alias)
        assert states(alias) == [("fails_twice", "queued", attempt)]
    work(alias)
    assert states(alias) == [("fails_twice", "done", 3)]
    assert len(effects(alias)) == 1
    error = outbox(alias).get().errors[0]
    assert (error["attempt"], error["type"]) == (1, "builtins.ValueError")
    assert "not yet" in error["message"]
    assert "fails_twice" in error["traceback"]


def test_the_last_retry_leaves_a_dead_letter_that_can_be_replayed(alias: str) -> None:
    mended = False

    @async_receiver(post_save, sender=Author, name="fails", max_retries=1, retry_backoff=0)
    def fails(**kwargs: Any) -> None:
        if not mended:
            raise ValueError("no")
        note(alias, "fails")

    Author.objects.using(alias).create(name="Ada")
    for _ in range(2):
        work(alias)
        come_due(alias)
        sweep(alias)
    assert states(alias) == [("fails", "dead", 2)]
    mended = True
    outbox(alias).replay()
    assert outbox(alias).replay() == []
    work(alias)
    assert states(alias) == [("fails", "done", 3)]
    assert len(effects(alias)) == 1


def test_an_error_that_is_not_retried_is_dead_at_once(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="hopeless", dont_autoretry_for=[ValueError])
    def hopeless(**kwargs: Any) -> None:
        raise ValueError

    Author.objects.using(alias).create(name="Ada")
    work(alias)
    assert states(alias) == [("hopeless", "dead", 1)]


def test_a_handler_may_ask_for_a_retry_or_discard(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="asks")
    def asks(instance: Author, **kwargs: Any) -> None:
        if instance.name == "retry":
            raise Retry(countdown=30)
        raise Discard("a test account")

    Author.objects.using(alias).create(name="retry")
    Author.objects.using(alias).create(name="discard")
    work(alias)
    assert sorted(state for _, state, _ in states(alias)) == ["discarded", "waiting"]
    assert outbox(alias, state="discarded").get().errors[-1]["message"] == "a test account"


def test_one_receiver_s_failure_touches_no_other(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="breaks")
    def breaks(**kwargs: Any) -> None:
        raise ValueError

    @async_receiver(post_save, sender=Author, name="works")
    def works(**kwargs: Any) -> None:
        note(alias, "works")

    for name in "ab":
        Author.objects.using(alias).create(name=name)
    work(alias)
    assert sorted(states(alias)) == [("breaks", "waiting", 1)] * 2 + [("works", "done", 1)] * 2


def test_countdown_waits(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="later", countdown=60)
    def later(**kwargs: Any) -> None: ...

    Author.objects.using(alias).create(name="Ada")
    assert states(alias) == [("later", "waiting", 0)]
    sweep(alias)
    assert states(alias) == [("later", "waiting", 0)]
    come_due(alias)
    sweep(alias)
    work(alias)
    assert states(alias) == [("later", "done", 1)]


def test_disconnect_stops_capture_and_connect_starts_it_again(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="switched")
    def switched(instance: Author, **kwargs: Any) -> None:
        note(alias, "switched", instance.name)

    Author.objects.using(alias).create(name="one")
    assert switched.disconnect() is True
    assert switched.disconnect() is False
    assert not post_save.has_listeners(Author)
    Author.objects.using(alias).create(name="two")
    switched.connect()
    switched.connect()
    Author.objects.using(alias).create(name="three")
    work(alias)
    assert effects(alias) == [("switched", "one"), ("switched", "three")]


def test_a_coroutine_handler_runs(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="coroutine", atomic=False)
    async def coroutine(instance: Author, **kwargs: Any) -> None:
        await Effect.objects.using(alias).acreate(receiver="coroutine", note=instance.name)

    Author.objects.using(alias).create(name="Ada")
    work(alias)
    assert states(alias) == [("coroutine", "done", 1)]
    assert effects(alias) == [("coroutine", "Ada")]

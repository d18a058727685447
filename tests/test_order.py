"""What deliveries of one object have to do with each other: order, coalescing, batches; and what comes too late."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.utils import timezone

from signalq import Created, Event, RegistrationError, async_batch_receiver, async_receiver, execute, publish, wire
from signalq.models import Delivery
from signalq.queryset import State
from tests.steps import come_due, outbox, states, sweep, work
from tests.testapp.models import Author, Effect

pytestmark = pytest.mark.usefixtures("temporary_receivers")

poked = Signal()


def save(alias: str, name: str = "Ada") -> Author:
    return Author.objects.using(alias).create(name=name)


def ids(alias: str, **lookups: Any) -> list[int]:
    return list(outbox(alias, **lookups).values_list("pk", flat=True))


# ordered


def test_the_deliveries_of_one_object_run_one_after_another(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[wire.Item] = []
    seen: list[str] = []

    @async_receiver(post_save, sender=Author, name="in_order", ordered=True)
    def in_order(instance: Author, created: bool, **kwargs: Any) -> None:
        seen.append(f"{instance.pk} {created}")

    one, other = save(alias), save(alias)
    one.save()
    other.save()
    monkeypatch.setattr(publish, "send", sent.extend)
    work(alias)
    assert sorted(seen) == sorted([f"{one.pk} True", f"{other.pk} True"])
    assert len(ids(alias, state=State.QUEUED)) == 2
    # As each was settled the next of its key was published.
    assert sorted(item.id for item in sent if isinstance(item, wire.Wake)) == ids(alias, state=State.QUEUED)
    work(alias)
    assert sorted(seen[2:]) == sorted([f"{one.pk} False", f"{other.pk} False"])


def test_a_failing_one_holds_its_own_key_only_and_not_for_ever(alias: str, settings: Any) -> None:
    seen: list[int] = []

    @async_receiver(post_save, sender=Author, name="in_order", ordered=True, retry_backoff=1_000, retry_jitter=False)
    def in_order(instance: Author, created: bool, **kwargs: Any) -> None:
        if instance.name == "fails" and created:
            raise ValueError
        seen.append(instance.pk)

    fails, works = save(alias, "fails"), save(alias)
    fails.save()
    works.save()
    for _ in range(3):
        work(alias)
    assert seen == [works.pk, works.pk]
    settings.SIGNALQ = {**settings.SIGNALQ, "ORDERED_HOLD": 0}
    work(alias)
    assert seen == [works.pk, works.pk, fails.pk]


def test_a_dead_one_lets_the_next_go(alias: str) -> None:
    seen: list[bool] = []

    @async_receiver(post_save, sender=Author, name="in_order", ordered=True, max_retries=0)
    def in_order(created: bool, **kwargs: Any) -> None:
        seen.append(created)
        if created:
            raise ValueError

    save(alias).save()
    work(alias)
    work(alias)
    assert seen == [True, False]


def test_two_workers_never_run_one_key_at_once(alias: str) -> None:
    running: set[Any] = set()
    overlaps: list[Any] = []
    order: list[int] = []

    @async_receiver(poked, name="in_order", ordered=True, key=lambda number, **kwargs: "same", using=alias)
    def in_order(number: int, **kwargs: Any) -> None:
        if running:
            overlaps.append(number)
        running.add(number)
        order.append(number)
        running.discard(number)

    for number in range(12):
        poked.send(None, number=number)

    def worker() -> None:
        try:
            while pending := ids(alias, state=State.QUEUED):
                execute.run(in_order, alias, pending)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=worker) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    work(alias)
    assert (order, overlaps) == (list(range(12)), [])


# coalesce


def test_deliveries_that_wait_together_run_once(alias: str) -> None:
    seen: list[Any] = []

    @async_receiver(post_save, sender=Author, name="reindex", coalesce=30)
    def reindex(instance: Author, created: bool, update_fields: Any, **kwargs: Any) -> None:
        seen.append((instance.name, created, update_fields))

    author, other = save(alias, "first"), save(alias, "other")
    author.name = "second"
    author.save(update_fields=["name"])
    author.save(update_fields=["email"])
    work(alias)
    assert seen == []
    come_due(alias, object_pk=str(author.pk), pk=min(ids(alias)))
    sweep(alias)
    work(alias)
    assert seen == [("second", True, None)]
    assert sorted(state for _, state, _ in states(alias)) == ["discarded", "discarded", "done", "waiting"]
    assert outbox(alias, state="waiting").get().object_pk == str(other.pk)
    message = outbox(alias, state="discarded").first().errors[-1]["message"]  # type: ignore[union-attr]
    assert message == f"Superseded by #{outbox(alias, state='done').get().pk}, which runs for it, too."


def test_update_fields_are_merged(alias: str) -> None:
    seen: list[Any] = []
    author = save(alias)

    @async_receiver(post_save, sender=Author, name="merged", coalesce=0)
    def merged(created: bool, update_fields: Any, **kwargs: Any) -> None:
        seen.append((created, update_fields))

    author.save(update_fields=["name"])
    author.save(update_fields=["email"])
    work(alias)
    assert seen == [(False, frozenset({"name", "email"}))]


def test_what_fails_is_retried_with_what_it_absorbed(alias: str) -> None:
    seen: list[Any] = []

    @async_receiver(post_save, sender=Author, name="absorbed", coalesce=0, retry_backoff=0)
    def absorbed(created: bool, **kwargs: Any) -> None:
        seen.append(created)
        if len(seen) == 1:
            raise ValueError

    save(alias).save()
    work(alias)
    come_due(alias)
    sweep(alias)
    work(alias)
    assert seen == [True, True]
    assert sorted(state for _, state, _ in states(alias)) == ["discarded", "done"]


@pytest.mark.parametrize("alias", ["default"], indirect=True)  # SQLite has one writer at a time, whoever it is
def test_a_saving_transaction_never_waits_for_a_coalescing_claim(alias: str) -> None:
    receiver = async_receiver(post_save, sender=Author, name="free", coalesce=0)(lambda **kwargs: None)
    author = save(alias)
    saved = threading.Event()

    def save_again() -> None:
        try:
            Author.objects.using(alias).get(pk=author.pk).save()
            saved.set()
        finally:
            connections.close_all()

    with transaction.atomic(alias):
        Delivery.objects.using(alias).claim(receiver.names, ids(alias), 20)
        thread = threading.Thread(target=save_again)
        thread.start()
        assert saved.wait(20)
    thread.join()


# batches


def test_a_batch_is_one_call_and_one_transaction(alias: str) -> None:
    calls: list[list[str]] = []

    @async_batch_receiver(post_save, sender=Author, when=Created(), name="batched", size=4)
    def batched(events: list[Event]) -> None:
        assert connections[alias].in_atomic_block
        calls.append([event.arguments["instance"].name for event in events])
        assert events[0].sender is Author
        Effect.objects.using(alias).bulk_create([Effect(receiver="batched") for _ in events])

    for name in "abcdefg":
        save(alias, name)
    gone = save(alias, "gone")
    gone.delete()
    work(alias)
    assert sorted(len(call) for call in calls) == [3, 4]
    assert sorted(name for call in calls for name in call) == list("abcdefg")
    assert Effect.objects.using(alias).count() == 7
    assert sorted(state for _, state, _ in states(alias)) == ["discarded"] + ["done"] * 7


def test_a_failing_batch_is_tried_again_one_by_one(alias: str) -> None:
    sizes: list[int] = []

    @async_batch_receiver(post_save, sender=Author, name="poisoned", retry_backoff=0, max_retries=1)
    def poisoned(events: list[Event]) -> None:
        sizes.append(len(events))
        Effect.objects.using(alias).create(receiver="poisoned")
        if any(event.arguments["instance"].name == "poison" for event in events):
            raise ValueError

    for name in ("a", "poison", "b"):
        save(alias, name)
    work(alias)
    assert Effect.objects.using(alias).count() == 0
    come_due(alias)
    sweep(alias)
    for pk in ids(alias, state=State.QUEUED):
        execute.run(poisoned, alias, [pk])  # the relay publishes each alone
    assert sizes == [3, 1, 1, 1]
    assert sorted(state for _, state, _ in states(alias)) == ["dead", "done", "done"]
    assert Effect.objects.using(alias).count() == 2


# expires


def test_what_expires_is_discarded(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="perishable", expires=60)(lambda **kwargs: None)
    save(alias)
    save(alias)
    outbox(alias, pk=ids(alias)[0]).update(created_at=timezone.now() - timezone.timedelta(seconds=61))  # type: ignore[attr-defined]
    work(alias)
    assert sorted(state for _, state, _ in states(alias)) == ["discarded", "done"]
    assert "60 s" in outbox(alias, state="discarded").get().errors[-1]["message"]


# refused


@pytest.mark.parametrize(
    ("signal", "options", "message"),
    [
        (poked, {"ordered": True}, "ordered needs key="),
        (poked, {"coalesce": 0}, "coalesce needs key="),
        (post_save, {"key": "name"}, "coalesce= or ordered="),
        (post_save, {"coalesce": 5, "countdown": 5}, "contradicts countdown"),
        (post_save, {"coalesce": 60, "expires": 60}, "expires=60 contradicts coalesce=60"),
    ],
)
def test_what_makes_no_sense_is_refused(signal: Signal, options: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        async_receiver(signal, **options)


@pytest.mark.parametrize("options", [{"durable": False}, {"atomic": False}, {"ordered": True}])
def test_what_a_batch_cannot_be(options: Any) -> None:
    with pytest.raises(RegistrationError, match="one transaction of many rows"):
        async_batch_receiver(post_save, **options)


def test_a_key_that_raises_names_its_receiver(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="keyed", ordered=True, key="nmae")(lambda **kwargs: None)
    with pytest.raises(ValueError, match="key= of keyed raised AttributeError"):
        save(alias)

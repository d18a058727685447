"""The relay: what has come due, what is held back, what is pruned, and several of them at once."""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import F
from django.db.models.signals import post_save
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from signalq import async_receiver, publish, relay as relay_module, wire
from signalq.models import Delivery
from signalq.queryset import DeliveryQuerySet, State
from signalq.receivers import registry
from signalq.relay import Relay
from tests.steps import come_due, outbox, states, sweep, work
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("temporary_receivers")


class Broker:
    """Stands in for the channel: what was sent, and how deep its queues are said to be."""

    def __init__(self) -> None:
        self.sent: list[wire.Item] = []
        self.depths: dict[str, int] = {}
        self.broken = self.away = False

    def queue(self, receiver: str) -> str:
        return receiver

    def send(self, items: Any) -> None:
        if self.broken:
            raise ConnectionError("refused")
        self.sent.extend(items)

    def depth(self, receiver: str) -> int:
        if self.away:
            raise ConnectionError("refused")
        return self.depths.get(receiver, 0)

    def close(self) -> None: ...


@pytest.fixture
def broker_(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Broker:
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(publish.publisher, "put", lambda items: None)
    stand_in = Broker()
    monkeypatch.setattr(wire, "Channel", lambda: stand_in)
    return stand_in


@pytest.fixture
def receiver(temporary_receivers: None) -> Any:
    return async_receiver(post_save, sender=Author, name="swept")(lambda **kwargs: None)


def save(alias: str) -> None:
    Author.objects.using(alias).create(name="Ada")


def long_ago() -> datetime:
    return timezone.now() - timedelta(days=1)


def saved_and_due(alias: str, count: int) -> list[int]:
    """Save, and let it come due in the order of the saves; the ids of what is new."""
    before = set(outbox(alias).values_list("pk", flat=True))
    for _ in range(count):
        save(alias)
    pks = sorted(set(outbox(alias).values_list("pk", flat=True)) - before)
    for number, pk in enumerate(pks):
        outbox(alias, pk=pk).update(due_at=long_ago() + timedelta(minutes=len(before), seconds=number))
    return pks


def due_in(alias: str) -> float:
    """Seconds until the only delivery comes due."""
    due_at = outbox(alias).get().due_at
    assert due_at is not None
    return (due_at - timezone.now()).total_seconds()


def sent_ids(broker_: Broker) -> list[int]:
    return [item.id for item in broker_.sent if isinstance(item, wire.Wake)]


@pytest.mark.usefixtures("receiver")
def test_a_lost_message_is_published_again_later_and_later(alias: str, broker_: Broker) -> None:
    save(alias)
    assert sweep(alias) == 0
    # Its age is of no account: after an outage of an hour the next message may be lost as any other.
    outbox(alias).update(created_at=timezone.now() - timedelta(hours=1))
    for expected in [10, 10, 10, 20, 40, 60, 60]:
        come_due(alias)
        assert sweep(alias) == 1
        assert due_in(alias) == pytest.approx(expected, abs=5)
    assert len(broker_.sent) == 7
    assert states(alias) == [("swept", "queued", 0)]
    outbox(alias).update(repeats=30_000)
    come_due(alias)
    assert sweep(alias) == 1


@pytest.mark.usefixtures("receiver")
def test_a_claim_shows_that_messages_arrive(alias: str, broker_: Broker, receiver: Any) -> None:
    """What is queued again after one is published as soon as if it were new, however often it was repeated before."""
    save(alias)
    for state in (State.WAITING, State.RUNNING):
        outbox(alias).update(state=state, repeats=9)
        come_due(alias)
        sweep(alias)
        assert due_in(alias) == pytest.approx(10, abs=5)
        assert outbox(alias).get().repeats == 0
    outbox(alias).update(repeats=9)
    claimed = Delivery.objects.using(alias).claim(receiver.names, list(outbox(alias).values_list("pk", flat=True)), 20)
    assert Delivery.objects.using(alias).hand_back(claimed) == 1
    assert outbox(alias).get().repeats == 0


@pytest.mark.usefixtures("receiver")
def test_a_backlog_is_left_alone_but_for_one_probe(alias: str, broker_: Broker) -> None:
    pks = saved_and_due(alias, 5)
    broker_.depths["swept"] = 5
    with CaptureQueriesContext(connections[alias]) as queries:
        for relay in (Relay([alias]), Relay([alias])):  # one of another process, too, sees that a probe is out
            for _ in range(3):
                relay.sweep(alias)
    assert sent_ids(broker_) == pks[-1:]
    assert sum(query["sql"].startswith("UPDATE") for query in queries) == 1
    assert outbox(alias, due_at__lte=timezone.now()).count() == 4


@pytest.mark.usefixtures("receiver")
def test_what_lies_behind_a_claimed_probe_was_lost(alias: str, broker_: Broker, settings: Any) -> None:
    """In a queue that is never empty; what came due after the probe may still have its message."""
    settings.SIGNALQ = {**settings.SIGNALQ, "GRACE": 0.2}
    pks = saved_and_due(alias, 5)
    broker_.depths["swept"] = 5
    relay = Relay([alias])
    assert relay.sweep(alias) == 1
    later = saved_and_due(alias, 2)
    outbox(alias, pk=pks[-1]).update(state=State.DONE, due_at=None)
    assert relay.sweep(alias) == 0  # a message may have been fetched ahead of its turn
    time.sleep(0.25)
    assert relay.sweep(alias) == 4
    assert sorted(sent_ids(broker_)) == pks
    relay.sweep(alias)
    assert sent_ids(broker_)[5:] == later[-1:]  # the next probe


@pytest.mark.usefixtures("receiver")
def test_a_probe_that_nobody_claims_is_repeated_as_it_is(alias: str, broker_: Broker) -> None:
    """It may wait in a deep queue, or be lost: what lies behind it is not known until it is claimed."""
    pks = saved_and_due(alias, 3)
    broker_.depths["swept"] = 5
    relay = Relay([alias])
    relay.sweep(alias)
    saved_and_due(alias, 1)
    outbox(alias, pk=pks[-1]).update(due_at=long_ago())
    assert (relay.sweep(alias), relay.sweep(alias)) == (0, 0)
    assert sent_ids(broker_) == [pks[-1], pks[-1]]


@pytest.mark.usefixtures("receiver")
def test_what_was_held_back_is_published_at_once_when_the_queue_is_empty(alias: str, broker_: Broker) -> None:
    saved_and_due(alias, 300)
    broker_.depths["swept"] = 300
    relay = Relay([alias])
    relay.sweep(alias)
    assert len(broker_.sent) == 1
    broker_.depths["swept"] = 0
    assert relay.sweep(alias) == 299
    assert sorted(sent_ids(broker_)) == sorted(outbox(alias).values_list("pk", flat=True))
    # And if these are lost as well, they are not noticed later than any other.
    assert outbox(alias, due_at__lte=timezone.now() + timedelta(seconds=11)).count() == 299


@pytest.mark.usefixtures("receiver")
def test_a_backlog_that_one_round_cannot_publish_goes_on_in_the_next(
    alias: str, broker_: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "BATCH", 2)
    monkeypatch.setattr(relay_module, "BATCHES", 3)
    saved_and_due(alias, 13)
    broker_.depth = lambda receiver: len(broker_.sent)  # type: ignore[method-assign]
    relay = Relay([alias])
    assert [relay.sweep(alias) for _ in range(3)] == [6, 6, 1]


def test_a_busy_queue_holds_back_its_own_receivers_only(alias: str, broker_: Broker, temporary_receivers: None) -> None:
    for name in ("busy", "idle"):
        async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    saved_and_due(alias, 200)
    broker_.depths["busy"] = 200
    assert sweep(alias) == 201
    sent = [item.receiver for item in broker_.sent if isinstance(item, wire.Wake)]
    assert (sent.count("idle"), sent.count("busy")) == (200, 1)


@pytest.mark.usefixtures("receiver")
def test_what_has_waited_is_published_whatever_the_backlog(alias: str, broker_: Broker) -> None:
    save(alias)
    outbox(alias).update(state=State.WAITING)
    broker_.depths["swept"] = 5
    come_due(alias)
    sweep(alias)
    assert len(broker_.sent) == 1
    assert states(alias) == [("swept", "queued", 0)]


def test_what_an_old_name_recorded_is_published_under_it(
    alias: str, broker_: Broker, receiver: Any, temporary_receivers: None
) -> None:
    """So that old workers, which know no other, can take it beside the new ones."""
    save(alias)
    registry.remove(receiver)
    async_receiver(post_save, sender=Author, name="renamed", aliases=["swept"])(lambda **kwargs: None)
    come_due(alias)
    assert sweep(alias) == 1
    assert [item.receiver for item in broker_.sent] == ["swept"]


@pytest.mark.usefixtures("receiver")
def test_a_broken_broker_leaves_the_rows_due(alias: str, broker_: Broker, caplog: pytest.LogCaptureFixture) -> None:
    save(alias)
    broker_.broken = True
    come_due(alias)
    assert sweep(alias) == 1
    assert "will come due again" in caplog.text
    assert 0 < due_in(alias) <= 20


@pytest.mark.usefixtures("receiver")
def test_while_the_broker_is_away_what_is_due_stays_due(
    alias: str, broker_: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    save(alias)
    outbox(alias).update(created_at=timezone.now() - timedelta(seconds=300))
    come_due(alias)
    relay = Relay([alias])
    broker_.away = True
    assert (relay.sweep(alias), relay.sweep(alias)) == (0, 0)
    assert caplog.text.count("The broker cannot be reached") == 1
    broker_.away = False
    assert relay.sweep(alias) == 1
    assert len(broker_.sent) == 1


@pytest.mark.usefixtures("receiver")
def test_its_own_publications_are_no_backlog(alias: str, broker_: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "BATCH", 3)
    for _ in range(10):
        save(alias)
    come_due(alias)
    broker_.depth = lambda receiver: len(broker_.sent)  # type: ignore[method-assign]
    assert sweep(alias) == 10
    assert len(broker_.sent) == 10


@pytest.mark.usefixtures("receiver")
def test_done_is_pruned_and_dead_stays(alias: str, settings: Any) -> None:
    for _ in range(4):
        save(alias)
    pks = list(outbox(alias).values_list("pk", flat=True))
    long_ago = timezone.now() - timedelta(days=2)
    outbox(alias).update(state=State.DONE, due_at=None, finished_at=long_ago)
    outbox(alias, pk=pks[1]).update(state=State.DEAD)
    outbox(alias, pk=pks[2]).update(finished_at=timezone.now())
    outbox(alias, pk=pks[3]).update(state=State.DISCARDED)
    Relay([alias]).round()
    assert list(outbox(alias).values_list("pk", flat=True)) == [pks[1], pks[2]]


@pytest.mark.usefixtures("receiver")
def test_pruning_stops_for_what_is_due_and_goes_on_in_the_next_round(
    alias: str, monkeypatch: pytest.MonkeyPatch, broker_: Broker
) -> None:
    monkeypatch.setattr(relay_module, "PRUNE_BATCH", 1)
    monkeypatch.setattr(relay_module, "PRUNE_SECONDS", 0.0)
    for _ in range(3):
        save(alias)
    outbox(alias).update(state=State.DONE, due_at=None, finished_at=long_ago() - timedelta(days=1))
    relay = Relay([alias])
    relay.round()
    assert outbox(alias).count() == 2
    save(alias)
    come_due(alias)
    relay.round()
    assert len(broker_.sent) == 1
    assert outbox(alias, state=State.DONE).count() == 1
    relay.round()
    relay.round()
    assert not outbox(alias, state=State.DONE).exists()


@pytest.mark.usefixtures("receiver", "every_alias")
def test_old_rows_of_one_database_do_not_keep_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "PRUNE_BATCH", 1)
    monkeypatch.setattr(relay_module, "PRUNE_SECONDS", 0.0)
    for alias in ("default", "sqlite"):
        for _ in range(3):
            save(alias)
        outbox(alias).update(state=State.DONE, due_at=None, finished_at=long_ago() - timedelta(days=1))
    Relay(["default", "sqlite"]).round()
    assert outbox("default").count() == outbox("sqlite").count() == 2


@pytest.mark.usefixtures("receiver")
def test_pruning_goes_on_at_once(alias: str, monkeypatch: pytest.MonkeyPatch, broker_: Broker) -> None:
    """A million old rows are many rounds: none of them waits for the next second."""
    monkeypatch.setattr(relay_module, "PRUNE_BATCH", 1)
    monkeypatch.setattr(relay_module, "PRUNE_SECONDS", 0.0)
    for _ in range(3):
        save(alias)
    outbox(alias).update(state=State.DONE, due_at=None, finished_at=long_ago() - timedelta(days=1))

    class UntilItWaits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            self.set()
            return True

    Relay([alias]).run(UntilItWaits())
    assert not outbox(alias).exists()


@pytest.mark.fault(14)
@pytest.mark.usefixtures("receiver")
def test_relays_at_once_take_each_delivery_once(
    alias: str, broker_: Broker, monkeypatch: pytest.MonkeyPatch, figures: Any
) -> None:
    number = 2 if alias == "sqlite" else 8  # SQLite's writers queue up behind one another
    monkeypatch.setattr(relay_module, "BATCH", 50)
    with transaction.atomic(alias):
        for _ in range(1_000):
            save(alias)
    come_due(alias)
    barrier = threading.Barrier(number)

    def relay() -> None:
        try:
            barrier.wait(10)
            Relay([alias]).sweep(alias)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=relay) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent_ids(broker_)) == sorted(outbox(alias).values_list("pk", flat=True))
    figures(relays=number, deliveries=1_000, published=len(broker_.sent))


@pytest.mark.usefixtures("receiver")
def test_a_database_that_fails_does_not_stop_the_others(
    every_alias: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for using in every_alias:
        save(using)
        come_due(using, state=State.QUEUED)
    real = DeliveryQuerySet.take_due

    def take_due(self: DeliveryQuerySet, *args: Any) -> Any:
        if self.db == every_alias[0]:
            raise OperationalError("server closed the connection unexpectedly")
        return real(self, *args)

    monkeypatch.setattr(DeliveryQuerySet, "take_due", take_due)
    Relay().round()
    assert f"Database {every_alias[0]!r}" in caplog.text
    for using in every_alias[1:]:
        assert outbox(using, due_at__gt=timezone.now()).count() == 1


def test_it_ends_when_it_is_told_or_orphaned(every_alias: list[str]) -> None:
    stop = threading.Event()
    Relay().run(stop, parent=os.getppid() + 1_000_000)  # somebody else's child: returns at once
    stop.set()
    Relay().run(stop)


@pytest.mark.usefixtures("receiver")
def test_a_claimed_delivery_is_left_alone(alias: str, receiver: Any) -> None:
    save(alias)
    Delivery.objects.using(alias).claim(receiver.names, [outbox(alias).get().pk], 20)
    assert sweep(alias) == 0
    work(alias)
    assert states(alias) == [("swept", "running", 1)]


@pytest.mark.fault(24)
@pytest.mark.usefixtures("receiver")
def test_two_replays_at_once_have_one_effect(alias: str) -> None:
    save(alias)
    outbox(alias).update(state=State.DEAD, due_at=None, attempt=F("attempt") + 3)
    replayed: list[int] = []
    barrier = threading.Barrier(2)

    def replay() -> None:
        try:
            barrier.wait(10)
            replayed.append(len(outbox(alias).replay()))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=replay) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox(alias).get().attempts_before == 3
    assert sorted(replayed) == [0, 1]
    work(alias)
    assert states(alias) == [("swept", "done", 4)]

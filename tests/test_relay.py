"""The relay: what has come due, what is held back, what is pruned, and several of them at once."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.models import F
from django.db.models.signals import post_save
from django.utils import timezone

from signalq import async_receiver, publish, relay as relay_module, wire
from signalq.models import Delivery
from signalq.queryset import DeliveryQuerySet, State
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


def due_in(alias: str) -> float:
    """Seconds until the only delivery comes due."""
    due_at = outbox(alias).get().due_at
    assert due_at is not None
    return (due_at - timezone.now()).total_seconds()


@pytest.mark.usefixtures("receiver")
def test_a_lost_message_is_published_again_later_and_later(alias: str, broker_: Broker) -> None:
    save(alias)
    assert sweep(alias) == 0
    for age, expected in [(0, 10), (45, 10), (90, 160), (10_000, 600)]:
        outbox(alias).update(created_at=timezone.now() - timedelta(seconds=age))
        come_due(alias)
        assert sweep(alias) == 1
        assert due_in(alias) == pytest.approx(expected, abs=5)
    assert len(broker_.sent) == 4
    assert states(alias) == [("swept", "queued", 0)]


@pytest.mark.usefixtures("receiver")
def test_a_backlog_is_not_flooded_for_ten_minutes(alias: str, broker_: Broker, settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "CHUNK": 2}
    for _ in range(5):
        save(alias)
    broker_.depths["swept"] = 5
    relay = Relay([alias])
    for _ in range(3):
        come_due(alias)
        relay.sweep(alias)
    # Only the oldest few are tried, and only once in a while: if a message was lost, it was one of theirs.
    assert [item.id for item in broker_.sent] == list(outbox(alias).values_list("pk", flat=True)[:2])
    outbox(alias).update(created_at=timezone.now() - timedelta(seconds=601))
    come_due(alias)
    relay.sweep(alias)
    assert len(broker_.sent) == 2 + 5


@pytest.mark.usefixtures("receiver")
def test_what_has_waited_is_published_whatever_the_backlog(alias: str, broker_: Broker) -> None:
    save(alias)
    outbox(alias).update(state=State.WAITING)
    broker_.depths["swept"] = 5
    come_due(alias)
    sweep(alias)
    assert len(broker_.sent) == 1
    assert states(alias) == [("swept", "queued", 0)]


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
def test_relays_at_once_take_each_delivery_once(alias: str, broker_: Broker) -> None:
    number = 2 if alias == "sqlite" else 4  # SQLite's writers queue up behind one another
    for _ in range(40):
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
    ids = [item.id for item in broker_.sent if isinstance(item, wire.Wake)]
    assert sorted(ids) == sorted(outbox(alias).values_list("pk", flat=True))


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

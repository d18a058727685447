"""What signalq tells of a delivery: its own signals, in their order, and the lines of its log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db import connections, transaction
from django.db.models import F
from django.db.models.signals import post_save
from django.dispatch import Signal

from signalq import Discard, Retry, async_batch_receiver, async_receiver, publish, signals, wire
from signalq.due import MAX_LOST_LEASES
from signalq.models import Delivery
from signalq.queryset import State, after
from signalq.receivers import registry
from tests.steps import come_due, outbox, sweep, work
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

NAMES = {value: name.removeprefix("delivery_") for name, value in vars(signals).items() if isinstance(value, Signal)}


class Told:
    """What was told since, as (signal, receiver's name), with what each came with."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.kwargs: list[dict[str, Any]] = []
        self.in_transaction: list[bool] = []

    def __call__(self, sender: Any, signal: Signal, **kwargs: Any) -> None:
        if NAMES[signal] in ("relay_swept", "breaker_changed"):
            return
        self.lines.append((NAMES[signal], getattr(sender, "name", sender)))
        self.kwargs.append(kwargs)
        self.in_transaction.append(any(c.in_atomic_block for c in connections.all(initialized_only=True)))

    def names(self) -> list[str]:
        return [name for name, _ in self.lines]


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    for signal in NAMES:
        signal.connect(told)
    yield told
    for signal in NAMES:
        signal.disconnect(told)


@pytest.fixture
def published(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that takes everything, and a publisher without a thread."""
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(wire.Channel, "send", lambda self, items: None)
    monkeypatch.setattr(wire.Channel, "queue", lambda self, receiver: receiver)
    monkeypatch.setattr(wire.Channel, "depth", lambda self, queue: 0)
    monkeypatch.setattr(publish.publisher, "put", publish.Publisher()._send)


def answering(name: str, *answers: BaseException | None, **options: Any) -> None:
    """A receiver that does or raises one thing after another."""
    left = list(answers)

    @async_receiver(post_save, sender=Author, name=name, retry_jitter=False, **options)
    def handler(**kwargs: Any) -> None:
        if left and (answer := left.pop(0)) is not None:
            raise answer


@pytest.mark.parametrize(
    ("answers", "options", "sequence"),
    [
        ([None], {}, ["started", "done"]),
        ([None], {"atomic": False}, ["started", "done"]),
        ([ValueError("no"), None], {}, ["started", "retried", "published", "started", "done"]),
        ([Retry(countdown=1), None], {}, ["started", "retried", "published", "started", "done"]),
        ([ValueError("no")], {"max_retries": 0}, ["started", "dead"]),
        ([ValueError("no")], {"max_retries": 0, "atomic": False}, ["started", "dead"]),
        ([Discard("no")], {}, ["started", "discarded"]),
    ],
)
def test_each_outcome_is_told(
    alias: str, told: Told, published: None, answers: Any, options: Any, sequence: list[str]
) -> None:
    answering("told", *answers, **options)
    Author(name="Ada").save(using=alias)
    work(alias)
    if "retried" in sequence:
        come_due(alias)
        sweep(alias)
        work(alias)
    assert told.lines == [(name, "told") for name in ["captured", "published", *sequence]]
    assert not any(told.in_transaction)
    row = outbox(alias).get()
    by_name = dict(zip(told.names(), told.kwargs, strict=True))
    assert by_name["captured"] == {"event_id": row.event_id, "using": alias, "durable": True}
    assert told.kwargs[1] == {"using": alias, "pk": row.pk, "result_id": None, "again": False}
    for kwargs in told.kwargs[2:]:
        if "delivery" in kwargs:
            assert (kwargs["delivery"].pk, kwargs["delivery"].event_id) == (row.pk, row.event_id)
    assert told.kwargs[-1]["duration"] >= 0
    assert [kwargs["again"] for kwargs in told.kwargs if "again" in kwargs] == [False, True][
        : sequence.count("published") + 1
    ]


def test_what_is_rolled_back_is_not_told(alias: str, told: Told, published: None) -> None:
    answering("told")
    with transaction.atomic(using=alias):
        Author(name="Ada").save(using=alias)
        transaction.set_rollback(True, using=alias)
    assert told.lines == []
    with transaction.atomic(using=alias):
        Author(name="Ada").save(using=alias)
        assert told.lines == []
    assert told.names() == ["captured", "published"]


def test_the_failure_is_told_after_its_rollback(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="told", max_retries=0)
    def told_(instance: Author, **kwargs: Any) -> None:
        Effect.objects.using(alias).create(receiver="told")
        raise ValueError("no")

    seen: list[tuple[int, str]] = []

    def look(delivery: Delivery, **kwargs: Any) -> None:
        seen.append((Effect.objects.using(alias).count(), outbox(alias).get().state))

    signals.delivery_dead.connect(look)
    try:
        Author(name="Ada").save(using=alias)
        work(alias)
    finally:
        signals.delivery_dead.disconnect(look)
    assert seen == [(0, "dead")]


def test_what_has_expired_is_told(alias: str, told: Told) -> None:
    answering("told", expires=60)
    for name in ("late", "in time"):
        Author(name=name).save(using=alias)
    late = outbox(alias).first()
    assert late is not None
    outbox(alias, pk=late.pk).update(created_at=after(-3600))
    work(alias)
    assert told.names() == ["captured", "captured", "discarded", "started", "done"]
    discarded = told.kwargs[2]
    assert (discarded["delivery"].pk, discarded["delivery"].state) == (late.pk, State.DISCARDED)
    assert discarded["duration"] is None
    assert "not run within 60 s" in str(discarded["outcome"].error)
    assert not any(told.in_transaction)
    assert outbox(alias, state=State.DISCARDED).get().errors[0]["type"] == "Expired"


def test_what_is_superseded_is_told(alias: str, told: Told) -> None:
    answering("told", coalesce=0)
    author = Author(name="Ada")
    for _ in range(3):
        author.save(using=alias)
    work(alias)
    assert told.names() == [*["captured"] * 3, "discarded", "discarded", "started", "done"]
    assert "Superseded by" in str(told.kwargs[3]["outcome"].error)
    assert {kwargs["duration"] for kwargs in told.kwargs[3:5]} == {None}
    assert not any(told.in_transaction)


def test_what_a_relay_declares_dead_is_told(alias: str, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    answering("told")
    Author(name="Ada").save(using=alias)
    row = outbox(alias).get()
    outbox(alias).update(state=State.RUNNING, attempt=MAX_LOST_LEASES, lost_leases=MAX_LOST_LEASES - 1)
    come_due(alias)
    with caplog.at_level(logging.INFO, "signalq"):
        sweep(alias)
    assert told.lines == [("captured", "told"), ("dead", "told")]
    assert told.kwargs[1]["duration"] is None
    assert "does the handler kill its process" in str(told.kwargs[1]["outcome"].error)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"told #{row.pk} is dead" in caplog.text
    assert not any(told.in_transaction)


def test_a_lost_lease_is_told(alias: str, told: Told) -> None:
    @async_receiver(post_save, sender=Author, name="told")
    def told_(**kwargs: Any) -> None:
        outbox(alias).update(attempt=F("attempt") + 1)

    Author(name="Ada").save(using=alias)
    work(alias)
    assert told.names() == ["captured", "started", "lease_lost"]


def test_each_of_a_batch_is_told(alias: str, told: Told) -> None:
    @async_batch_receiver(post_save, sender=Author, name="told")
    def told_(events: list[Any]) -> None: ...

    for name in ("Ada", "Grace"):
        Author(name=name).save(using=alias)
    work(alias)
    assert told.names() == ["captured", "captured", "started", "started", "done", "done"]
    assert [kwargs["event"].id for kwargs in told.kwargs[2:4]] == [kwargs["event_id"] for kwargs in told.kwargs[:2]]


@pytest.mark.parametrize(
    ("answer", "sequence"),
    [
        (None, ["started", "done"]),
        (ValueError("no"), ["started", "retried", "started", "done"]),
        (Discard("no"), ["started", "discarded"]),
    ],
)
def test_transient_deliveries_are_told(
    every_alias: list[str], told: Told, settings: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, sequence: list[str]
) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    app = celery.Celery("tests", broker="memory://", set_as_current=True)
    app.conf.task_always_eager = True
    app.set_default()
    answering("told", answer, durable=False, retry_backoff=0)
    monkeypatch.setattr(publish.publisher, "put", publish.Publisher()._send)
    Author.objects.create(name="Ada")
    app.close()
    assert told.names() == ["captured", *sequence, "published"]  # eager: run while it is published
    delivery = next(kwargs["delivery"] for kwargs in told.kwargs if "delivery" in kwargs)
    assert (delivery.pk, delivery.event_id, delivery.receiver) == (None, told.kwargs[0]["event_id"], "told")
    assert told.kwargs[-1]["result_id"] == delivery.result_id
    assert told.kwargs[0]["durable"] is False


@pytest.mark.parametrize(
    ("answers", "level", "says"),
    [
        ([None], "INFO", r"told #{pk} done, attempt 1"),
        ([ValueError("secret")], "WARNING", "told #{pk} failed, attempt 1, again in 1.0 s: ValueError"),
        ([Discard("not wanted")], "INFO", "told #{pk} discarded: not wanted"),
    ],
)
def test_the_log_has_ids_and_a_level_by_outcome(
    alias: str, caplog: pytest.LogCaptureFixture, answers: Any, level: str, says: str
) -> None:
    answering("told", *answers)
    with caplog.at_level(logging.INFO, "signalq"):
        Author(name="A name that stays out of logs").save(using=alias)
        work(alias)
    row, (record,) = outbox(alias).get(), caplog.records
    assert record.levelname == level
    assert says.format(pk=row.pk) in record.getMessage()
    ids = {name: record.__dict__[name] for name in ("receiver", "delivery", "event", "attempt")}
    assert ids == {"receiver": "told", "delivery": row.pk, "event": str(row.event_id), "attempt": 1}
    assert "A name" not in caplog.text
    assert "secret" not in caplog.text


def test_a_dead_letter_is_an_error_with_its_traceback(alias: str, caplog: pytest.LogCaptureFixture) -> None:
    answering("told", ValueError("broken"), max_retries=0)
    with caplog.at_level(logging.INFO, "signalq"):
        Author(name="Ada").save(using=alias)
        work(alias)
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["delivery"]) == ("ERROR", outbox(alias).get().pk)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_a_listener_that_raises_stops_nothing(alias: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(**kwargs: Any) -> None:
        raise RuntimeError("a listener's own")

    answering("told")
    for signal in NAMES:
        signal.connect(broken)
    try:
        Author(name="Ada").save(using=alias)
        work(alias)
    finally:
        for signal in NAMES:
            signal.disconnect(broken)
    assert outbox(alias).get().state == State.DONE
    assert "a listener's own" in caplog.text


def test_without_a_listener_nothing_is_looked_up(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture and publication of a busy site cost what they did."""
    answering("told")
    monkeypatch.setattr(type(registry), "get", None)
    monkeypatch.setattr(Signal, "send_robust", None)
    Author(name="Ada").save(using=alias)
    signals.published([wire.Wake(alias, "told", 1, False)])
    assert outbox(alias).count() == 1

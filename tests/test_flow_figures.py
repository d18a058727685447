"""flow(): what is going on, counted on every database; the sentence; and that a lot of rows costs no more."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections
from django.db.models.functions import Now
from django.db.models.signals import post_delete, post_save
from django.test.utils import CaptureQueriesContext

from signalq import async_receiver
from signalq.flow import looks
from signalq.flow.overview import Flow, ReceiverFlow, flow
from signalq.models import Delivery
from signalq.queryset import State, after
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.usefixtures("temporary_receivers")


@pytest.fixture(autouse=True)
def receivers(temporary_receivers: None) -> None:
    for name in ("fig.mails", "fig.counts"):
        async_receiver(post_save, sender=Author, name=name, queue="post")(lambda **kwargs: None)
    async_receiver(post_delete, name="fig.quiet", queue="low", durable=False)(lambda **kwargs: None)


def record(alias: str, receiver: str, state: State, count: int = 1, due_in: float | None = 0.0, **values: Any) -> None:
    finished = state in (State.DONE, State.DEAD, State.DISCARDED)
    given = {
        "signal": "django.db.models.signals.post_save",
        "sender": "testapp.Author",
        "due_at": None if finished else after(due_in or 0.0),
        "created_at": Now(),
        "finished_at": Now() if finished else None,
        **values,
    }
    rows = [Delivery(receiver=receiver, state=state, event_id=uuid.uuid4(), **given) for _ in range(count)]
    Delivery.objects.using(alias).bulk_create(rows, batch_size=500)


def done(alias: str, receiver: str, ago: Iterable[float], took: float = 2.0) -> None:
    """One for each of ``ago`` seconds, that took ``took``."""
    rows = [
        Delivery(
            receiver=receiver,
            state=State.DONE,
            event_id=uuid.uuid4(),
            created_at=after(-seconds - took),
            finished_at=after(-seconds),
        )
        for seconds in ago
    ]
    Delivery.objects.using(alias).bulk_create(rows, batch_size=100)


def of(now: Flow, name: str) -> ReceiverFlow:
    return next(receiver for receiver in now.receivers if receiver.name == name)


def test_each_state_is_counted(alias: str) -> None:
    record(alias, "fig.mails", State.QUEUED, 3, due_in=10)
    record(alias, "fig.mails", State.QUEUED, 1, due_in=-90, attempt=2)
    record(alias, "fig.mails", State.QUEUED, 1, due_in=10, attempt=3, attempts_before=3)
    record(alias, "fig.mails", State.WAITING, 4, due_in=600, attempt=1)
    record(alias, "fig.mails", State.WAITING, 1, due_in=-5)
    record(alias, "fig.mails", State.RUNNING, 2, due_in=15)
    record(alias, "fig.mails", State.DEAD, 2)
    record(alias, "fig.mails", State.DISCARDED, 7)
    now = flow([alias])
    mails = of(now, "fig.mails")
    assert (mails.queued, mails.waiting, mails.running, mails.dead) == (5, 5, 2, 2)
    assert (mails.retrying, mails.later, mails.outstanding, mails.capped) == (5, 4, 12, frozenset())
    assert mails.oldest_due == pytest.approx(90, abs=20)
    assert (mails.signals, mails.senders) == (("django.db.models.signals.post_save",), ("testapp.Author",))
    assert mails.aliases == (alias,)
    assert (now.outstanding, now.backlog, now.oldest) == (12, 8, mails.oldest_due)
    assert [receiver.name for receiver in now.receivers] == ["fig.mails", "fig.counts", "fig.quiet"]
    assert of(now, "fig.quiet").queue == "low"
    assert of(now, "fig.quiet").senders == ("",)


def test_several_databases_are_added_up(every_alias: list[str]) -> None:
    for number, using in enumerate(every_alias, start=1):
        record(using, "fig.mails", State.QUEUED, number, due_in=5)
        done(using, "fig.mails", [10])
    now = flow()
    assert list(now.aliases) == every_alias
    assert of(now, "fig.mails").queued == sum(range(1, len(every_alias) + 1))
    assert of(now, "fig.mails").aliases == tuple(every_alias)
    assert of(now, "fig.mails").done_lately == len(every_alias)
    assert now.rate == pytest.approx(len(every_alias) / 60)
    assert flow(every_alias[:1]).outstanding == 1


def test_what_is_done_by_hours_and_how_long_it_took(alias: str) -> None:
    done(alias, "fig.mails", [30, 40, 3600 * 1.5, 3600 * 23.5, 3600 * 30], took=2)
    done(alias, "fig.mails", [50], took=100)
    mails = of(flow([alias]), "fig.mails")
    assert mails.hours == (1, *[0] * 21, 1, 3)
    assert (mails.p50, mails.p99) == (pytest.approx(2, abs=0.1), pytest.approx(100, abs=0.1))
    assert mails.done_lately == 3
    now = looks.now(alias)
    assert mails.last_done is not None
    assert now - mails.last_done == pytest.approx(timedelta(seconds=30), abs=timedelta(seconds=10))
    nothing = of(flow([alias]), "fig.counts")
    assert (nothing.p50, nothing.p99, nothing.last_done, nothing.hours) == (None, None, None, (0,) * 24)


def test_a_lot_that_is_done_is_estimated_and_what_few_have_done_is_exact(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NEWEST": 100, "FEW": 10, "SAMPLE": 300}.items():
        monkeypatch.setattr(looks, name, value)
    done(alias, "fig.mails", [86_000 - second * 40 for second in range(2_000)])
    done(alias, "fig.counts", [7_000, 50_000])
    now = flow([alias])
    hours = of(now, "fig.mails").hours
    assert sum(hours) == pytest.approx(2_000, rel=0.1)
    assert all(number == pytest.approx(90, abs=25) for number in hours[1:-2]), hours
    assert [hour for hour, number in enumerate(of(now, "fig.counts").hours) if number] == [10, 22]
    assert sum(of(now, "fig.counts").hours) == 2
    assert of(now, "fig.mails").p50 == pytest.approx(2, abs=0.1)


def test_beyond_the_cap_it_says_so(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "CAP", 2_000)  # of two states
    monkeypatch.setattr(looks, "LOOKED_INTO", 100)
    record(alias, "fig.mails", State.QUEUED, 1_001, due_in=-1, attempt=1)
    record(alias, "fig.mails", State.WAITING, 5, due_in=100)
    now = flow([alias])
    mails = of(now, "fig.mails")
    assert (mails.shown("queued"), mails.shown("waiting"), mails.shown("outstanding")) == ("1,000+", "5", "1,005+")
    assert mails.shown("retrying") == "100+"
    assert (now.backlog, now.capped) == (1_000, True)
    assert "1,000+ waiting" in now.sentence


def test_so_many_receivers_share_the_cap() -> None:
    assert [looks.share(lanes) for lanes in (1, 2, 3, 14, 60, 5_000)] == [100_000, 50_000, 20_000, 5_000, 1_000, 1_000]


def test_the_number_of_queries_does_not_grow(alias: str) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connections[alias]) as context:
            flow([alias])
        return len(context)

    record(alias, "fig.mails", State.QUEUED, 10)
    record(alias, "fig.mails", State.WAITING, 10)
    done(alias, "fig.mails", range(5, 10))
    before = queries()
    for number in range(120):
        async_receiver(post_save, sender=Author, name=f"many.{number}")(lambda **kwargs: None)
        record(alias, f"many.{number}", State.QUEUED)
    # SQLite's limit of queries in one makes two of some of them.
    assert before <= 11
    assert queries() <= before + 3


def test_what_waits_for_a_receiver_unknown_here_is_parked(alias: str) -> None:
    record(alias, "gone", State.QUEUED, 2, due_in=5)
    record(alias, "forgotten", State.DONE)
    now = flow([alias])
    gone = of(now, "gone")
    assert (gone.receiver, gone.parked, gone.needs_you, gone.queue) == (None, True, True, "")
    assert (gone.signals, gone.senders) == (("django.db.models.signals.post_save",), ("testapp.Author",))
    assert gone.trouble == "2 parked, unknown here"
    assert "forgotten" not in [receiver.name for receiver in now.receivers]
    assert not of(now, "fig.mails").parked


def test_old_names_are_their_receivers(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="new", aliases=["old"])(lambda **kwargs: None)
    record(alias, "old", State.QUEUED, 2, due_in=5)
    record(alias, "new", State.QUEUED, 3, due_in=5)
    now = flow([alias])
    assert of(now, "new").queued == 5
    assert "old" not in [receiver.name for receiver in now.receivers]


def test_the_worst_comes_first(alias: str) -> None:
    record(alias, "fig.counts", State.QUEUED, 50, due_in=-5)
    done(alias, "fig.counts", [1])
    record(alias, "fig.mails", State.DEAD)
    now = flow([alias])
    assert [(receiver.name, receiver.needs_you) for receiver in now.receivers[:2]] == [
        ("fig.mails", True),
        ("fig.counts", False),
    ]
    assert of(now, "fig.mails").trouble == "1 dead"


@pytest.mark.parametrize(
    ("late", "done_ago", "needs"), [(30, None, False), (70, None, True), (70, 5, False), (1_000, 5, True)]
)
def test_overdue_needs_you_unless_it_is_being_done(
    alias: str, late: float, done_ago: float | None, needs: bool
) -> None:
    record(alias, "fig.mails", State.QUEUED, due_in=-late)
    if done_ago is not None:
        done(alias, "fig.mails", [done_ago])
    mails = of(flow([alias]), "fig.mails")
    assert mails.needs_you is needs
    assert mails.trouble.startswith("overdue for ") is needs


def test_the_sentence_of_an_outbox_at_rest(alias: str) -> None:
    assert flow([alias]).sentence == "All is well: nothing waits."
    record(alias, "fig.mails", State.WAITING, 3, due_in=600)
    assert flow([alias]).sentence == "All is well: 3 for later, nothing else waits."
    record(alias, "fig.mails", State.QUEUED, 2, due_in=10)
    assert flow([alias]).sentence == "All is well: 2 under way."
    assert flow([alias]).is_well


def test_the_sentence_of_a_backlog(alias: str) -> None:
    record(alias, "fig.mails", State.QUEUED, 1_204, due_in=-380)
    done(alias, "fig.mails", [second / 10 for second in range(5, 305)])
    record(alias, "fig.counts", State.DEAD)
    record(alias, "gone", State.QUEUED, due_in=5)
    now = flow([alias])
    assert now.rate == pytest.approx(5)
    assert now.seconds_left == pytest.approx(241)
    assert now.sentence == (
        "2 of 4 receivers need you. Nothing is lost: 1,205 waiting, oldest 6 min, draining 5/s, about 4 min left."
    )


def test_the_sentence_of_one_that_does_not_drain(alias: str) -> None:
    record(alias, "fig.mails", State.QUEUED, 7, due_in=-380)
    assert flow([alias]).sentence == (
        "1 of 3 receivers needs you. Nothing is lost: 7 waiting, oldest 6 min, "
        "not draining: no sign of a worker on `post`."
    )


def test_a_database_that_is_away_is_said_and_the_others_are_counted(
    every_alias: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record("sqlite", "fig.mails", State.QUEUED, 2, due_in=5)
    connections["default"].close()
    with monkeypatch.context() as patch:
        patch.setitem(connections["default"].settings_dict, "PORT", "1")
        now = flow(["default", "sqlite"])
    assert list(now.away) == ["default"]
    assert (now.aliases, now.outstanding, now.is_well) == (("sqlite",), 2, False)
    assert now.sentence.startswith("No answer from 'default'.")
    assert flow(["default"]).away == {}

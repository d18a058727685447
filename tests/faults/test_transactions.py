"""Transactions in all their forms: somebody else's hooks, savepoints by hand, strict isolation, a connection pool."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import F
from django.db.models.signals import post_save

from signalq import Changed, Old, async_receiver, execute
from signalq.codec import load_event
from signalq.lease import Lease
from signalq.models import Delivery
from signalq.outcomes import again_on_conflict
from signalq.queryset import State
from signalq.receivers import registry
from signalq.relay import Relay
from tests.integration.harness import Site, wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once, states
from tests.steps import come_due, outbox, work
from tests.testapp.models import Author, Book, Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.timeout(90)]

savepoint = getattr(transaction, "savepoint_create", None) or transaction.savepoint  # renamed in Django 6.1


def raises() -> None:
    raise ZeroDivisionError


def watch_status() -> None:
    async_receiver(post_save, sender=Book, when=Changed("status"), name="watching")(lambda **kwargs: None)


def changes(alias: str) -> list[dict[str, Any]]:
    """What was recorded since the last time."""
    found = [dict(load_event(row.payload).changes) for row in outbox(alias)]
    outbox(alias).delete()
    return found


@pytest.mark.fault(25)
@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_a_raising_hook_stops_no_delivery(alias: str, robust: bool, first: bool) -> None:
    @async_receiver(post_save, sender=Author, name="noted")
    def noted(instance: Author, using: str, **kwargs: Any) -> None:
        Effect.objects.using(using).create(receiver="noted", note=instance.name)

    raised = False
    try:
        with transaction.atomic(alias):
            if not first:
                Author.objects.using(alias).create(name="Ada")
            transaction.on_commit(raises, using=alias, robust=robust)
            if first:
                Author.objects.using(alias).create(name="Ada")
    except ZeroDivisionError:
        raised = True
    assert raised is not robust
    assert connections[alias].run_on_commit == []
    Author.objects.using(alias).create(name="Eve")
    work(alias)
    assert sorted(Effect.objects.using(alias).values_list("note", flat=True)) == ["Ada", "Eve"]


@pytest.mark.fault(25)
@pytest.mark.parametrize("robust", [False, True])
def test_a_raising_hook_makes_no_committed_change_undone(alias: str, robust: bool) -> None:
    watch_status()
    book = Book.objects.using(alias).create(title="Notes")
    changes(alias)
    book.status = "paid"
    try:
        with transaction.atomic(alias):
            transaction.on_commit(raises, using=alias, robust=robust)
            book.save()
    except ZeroDivisionError:
        assert not robust
    assert changes(alias) == [{"status": ("draft", "paid")}]
    book.save()
    assert changes(alias) == []
    book.status = "sent"
    book.save()
    assert changes(alias) == [{"status": ("paid", "sent")}]


@pytest.mark.fault(30)
def test_a_change_undone_by_a_savepoint_by_hand_is_no_base(alias: str) -> None:
    watch_status()
    book = Book.objects.using(alias).create(title="Notes")
    changes(alias)
    book.status = "paid"
    with transaction.atomic(alias):
        sid = savepoint(alias)
        book.save()
        transaction.savepoint_rollback(sid, alias)
    assert changes(alias) == []
    book.save()
    assert changes(alias) == [{"status": (Old.UNKNOWN, "paid")}]


@pytest.mark.fault(30)
def test_savepoints_by_hand_after_clean_savepoints(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="noted")(lambda **kwargs: None)
    with transaction.atomic(alias):
        for _ in range(3):
            transaction.savepoint_commit(savepoint(alias), alias)
        outer = savepoint(alias)
        Author.objects.using(alias).create(name="before")
        transaction.clean_savepoints(alias)
        inner = savepoint(alias)
        Author.objects.using(alias).create(name="undone")
        transaction.savepoint_rollback(inner, alias)
        Author.objects.using(alias).create(name="after")
        transaction.savepoint_commit(outer, alias)
    kept = Author.objects.using(alias).order_by("pk")
    assert [author.name for author in kept] == ["before", "after"]
    assert [row.object_pk for row in outbox(alias)] == [str(author.pk) for author in kept]


@pytest.fixture
def options(alias: str) -> Iterator[Callable[..., None]]:
    """Connects anew, in every thread, with these OPTIONS besides its own."""
    settings = connections.settings[alias]
    before = settings["OPTIONS"]

    def connect_anew() -> None:
        connections[alias].close()
        del connections[alias]

    def change(**values: Any) -> None:
        connect_anew()
        settings["OPTIONS"] = {**before, **values}

    yield change
    if "pool" in settings["OPTIONS"]:
        connections[alias].close()
        connections[alias].close_pool()
    connect_anew()
    settings["OPTIONS"] = before


LEVELS = ["repeatable read", "serializable"]


@pytest.fixture(params=LEVELS)
def strict(request: pytest.FixtureRequest, alias: str, options: Callable[..., None]) -> str:
    """Each transaction of every connection at this isolation level; SQLite knows only the strictest."""
    level = str(request.param)
    if connections[alias].vendor == "postgresql":
        from psycopg import IsolationLevel

        # Django says it in each BEGIN; the server's own default counts for the statements in autocommit.
        default = "-c default_transaction_isolation=" + level.replace(" ", "\\ ")
        options(isolation_level=IsolationLevel[level.upper().replace(" ", "_")], options=default)
    elif connections[alias].vendor == "mysql":
        options(isolation_level=level)
    return level


def at_once(*works: Callable[[], object]) -> None:
    """Do them all in threads of their own, begun together."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        barrier.wait(10)
        try:
            work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(run, work) for work in works]:
            future.result(150)


class Mill:
    """Savers, workers and relays as threads of this process, until all that was saved is handled."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.saving = threading.Event()
        self.saving.set()

    def register(self) -> None:
        @async_receiver(post_save, sender=Author, name="noted")
        def noted(instance: Author, using: str, **kwargs: Any) -> None:
            Effect.objects.using(using).create(receiver="noted", object_pk=instance.pk)
            Author.objects.using(using).filter(name="counter").update(counter=F("counter") + 1)

        @async_receiver(post_save, sender=Author, name="merged", coalesce=0)
        def merged(instance: Author, using: str, **kwargs: Any) -> None:
            Effect.objects.using(using).create(receiver="merged", object_pk=instance.pk, note=instance.email)

        @async_receiver(post_save, sender=Author, name="ordered", ordered=True, key=lambda **kwargs: "one line")
        def ordered(instance: Author, using: str, **kwargs: Any) -> None:
            Effect.objects.using(using).create(receiver="ordered", object_pk=instance.pk)

    def save(self, count: int) -> None:
        for number in range(count):
            again_on_conflict(lambda number=number: self._save(number))  # type: ignore[misc]

    def _save(self, number: int) -> None:
        with transaction.atomic(self.alias):
            author = Author.objects.using(self.alias).create(name=f"author {number}")
            author.email = f"{number}@example.org"
            author.save()

    def work(self) -> None:
        while self.is_open():
            for name in ("noted", "merged", "ordered"):
                # At the strictest a mere look may be refused; a worker's message comes again then.
                again_on_conflict(lambda name=name: execute.run(registry[name], self.alias, self._queued(name)))  # type: ignore[misc]
            time.sleep(random.uniform(0, 0.01))  # as a message takes to come

    def relay(self) -> None:
        relay = Relay([self.alias])
        while self.is_open():
            with contextlib.suppress(OperationalError):  # one statement over every row: at the strictest mostly in vain
                come_due(self.alias, state=State.QUEUED)
            relay.round()

    def is_open(self) -> bool:
        return self.saving.is_set() or again_on_conflict(lambda: outbox(self.alias, finished_at=None).exists())

    def _queued(self, name: str) -> list[int]:
        return list(outbox(self.alias, receiver=name, state=State.QUEUED).values_list("pk", flat=True)[:20])

    def savers(self, count: int) -> None:
        try:
            self.save(count)
        finally:
            self.saving.clear()


@pytest.mark.fault(30)
@pytest.mark.timeout(180)
def test_nothing_is_lost_or_doubled_under_strict_isolation(
    alias: str, strict: str, long: bool, figures: Callable[..., None]
) -> None:
    counter = Author.objects.using(alias).create(name="counter")
    mill, count = Mill(alias), 100 if long else 8
    mill.register()
    with transaction.atomic(alias):
        assert _level(alias) in {strict, ""}
    at_once(lambda: mill.savers(count), lambda: mill.save(count), *[mill.work] * 3, *[mill.relay] * 2)

    authors = {str(author.pk): author for author in Author.objects.using(alias).exclude(pk=counter.pk)}
    effects = Counter(Effect.objects.using(alias).values_list("receiver", "object_pk"))
    assert len(authors) >= 2 * count - 1
    assert outbox(alias).count() == 6 * len(authors)
    assert set(outbox(alias).exclude(receiver="merged").values_list("state", flat=True)) == {"done"}
    for name in ("noted", "ordered"):
        assert {pk: effects[name, pk] for pk in authors} == dict.fromkeys(authors, 2), name
    merged = Effect.objects.using(alias).filter(receiver="merged")
    assert sum(outbox(alias, receiver="merged", state=State.DONE).values_list("attempt", flat=True)) == merged.count()
    assert set(merged.values_list("object_pk", "note")) == {(pk, author.email) for pk, author in authors.items()}
    lined_up = Effect.objects.using(alias).filter(receiver="ordered").order_by("pk").values_list("object_pk", flat=True)
    recorded = outbox(alias, receiver="ordered").values_list("object_pk", flat=True)
    assert len(lined_up) == len(recorded)
    attempts = Counter(outbox(alias).values_list("attempt", flat=True))
    counter.refresh_from_db()
    assert counter.counter == 2 * len(authors)
    figures(
        isolation=strict, deliveries=6 * len(authors), attempts_that_failed=sum(n for a, n in attempts.items() if a > 1)
    )


def _level(alias: str) -> str:
    """The isolation level of the transaction that is open."""
    queries = {"postgresql": "SHOW transaction_isolation", "mysql": "SELECT @@tx_isolation"}
    query = queries.get(connections[alias].vendor)
    if query is None:
        return ""
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        return str(cursor.fetchone()[0]).lower().replace("-", " ")


def prepared(alias: str, **values: Any) -> list[int]:
    """A few deliveries in the state that a test needs."""
    async_receiver(post_save, sender=Author, name="noted")(lambda **kwargs: None)
    for _ in range(30):
        Author.objects.using(alias).create(name="Ada")
    if values:
        outbox(alias).update(**values)
    return list(outbox(alias).values_list("pk", flat=True))


@pytest.mark.fault(30, 24)
def test_replays_at_once_under_strict_isolation(alias: str, strict: str) -> None:
    ids = prepared(alias, state=State.DEAD, due_at=None)
    replayed: list[int] = []
    at_once(*[lambda: replayed.extend(pk for _, pk in outbox(alias).replay())] * 4)
    assert sorted(replayed) == ids
    assert set(outbox(alias).values_list("state", flat=True)) == {"queued"}


@pytest.mark.fault(30)
def test_prunes_at_once_under_strict_isolation(alias: str, strict: str) -> None:
    from django.db.models.functions import Now

    prepared(alias, state=State.DONE, due_at=None, finished_at=Now())

    def prune() -> None:
        relay = Relay([alias])
        relay._databases()
        relay._prune()
        assert not relay._ill

    from django.test import override_settings

    with override_settings(SIGNALQ={"PUBLISH": False, "RELAY": False, "RETAIN_DONE": 0}):
        at_once(*[prune] * 4)
    assert not outbox(alias).exists()


@pytest.mark.fault(30)
def test_a_delivery_is_handed_back_while_somebody_looks_at_it_under_strict_isolation(alias: str, strict: str) -> None:
    """Another transaction writes the same row between the snapshot and the write."""
    ids = prepared(alias)
    claimed = Delivery.objects.using(alias).claim(["noted"], ids, 20.0)
    written = threading.Event()

    def hand_back() -> None:
        assert written.wait(10)
        with Lease(alias, claimed):
            pass  # it is to stop before it has begun any

    def write() -> None:
        with transaction.atomic(alias):
            Delivery.objects.using(alias).filter(pk__in=ids[:5]).update(repeats=1)
            written.set()
            time.sleep(0.3)  # until the other one waits for the lock

    at_once(write, hand_back)
    assert Counter(outbox(alias).values_list("state", "attempt")) == {("queued", 0): len(ids)}


only_postgresql = pytest.mark.parametrize("alias", ["default"], indirect=True)


@pytest.fixture
def pooled(alias: str, options: Callable[..., None]) -> None:
    options(pool={"min_size": 1, "max_size": 8, "timeout": 10})
    assert connections[alias].pool is not None


@only_postgresql
@pytest.mark.fault(30)
@pytest.mark.usefixtures("pooled")
def test_connections_of_a_pool_in_many_threads(alias: str) -> None:
    counter = Author.objects.using(alias).create(name="counter")
    mill = Mill(alias)
    mill.register()
    at_once(lambda: mill.savers(15), lambda: mill.save(15), *[mill.work] * 2, mill.relay)
    assert Effect.objects.using(alias).filter(receiver="noted").count() == outbox(alias, receiver="noted").count()
    counter.refresh_from_db()
    assert counter.counter == outbox(alias, receiver="noted").count() >= 58


@only_postgresql
@pytest.mark.fault(30, 27)
@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize("error", [SystemExit, TypeError])
def test_a_connection_goes_back_to_its_pool_without_what_was_abandoned(
    alias: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    async_receiver(post_save, sender=Author, name="noted")(lambda **kwargs: None)
    Author.objects.using(alias).create(name="first")

    def broken() -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(connections[alias], "_commit", broken)
        with pytest.raises(error), transaction.atomic(alias):
            Author.objects.using(alias).create(name="cut")
    connections[alias].close()  # back to the pool; the next one takes it out again
    with transaction.atomic(alias):
        Author.objects.using(alias).create(name="next")
    assert sorted(Author.objects.using(alias).values_list("name", flat=True)) == ["first", "next"]
    assert outbox(alias).count() == 2


@only_postgresql
@pytest.mark.fault(30)
def test_a_site_with_a_pool(alias: str, redis_broker: str, tmp_path: Path, figures: Callable[..., None]) -> None:
    site = Site(alias, redis_broker, tmp_path)
    pooled = {"DJANGO_SETTINGS_MODULE": "tests.faults.pooled_settings"}
    try:
        worker, saver = site.worker(**pooled), site.saver(**pooled)
        started = time.monotonic()
        saver.ask("save_in_one_transaction", count=100, rolled_back=5)
        saver.ask("save_each", count=50)
        wait_for(all_done(alias, 450), lambda: f"450 deliveries; {states(alias)}", timeout=60)
        check_each_author_has_each_effect_once(alias)
        figures(deliveries=450, seconds_to_done=time.monotonic() - started)
        assert worker.terminate() < 20
    finally:
        site.close()
        if sys.exc_info()[0]:
            print(site.logs())  # noqa: T201 - pytest shows it with the failure


@only_postgresql
@pytest.mark.fault(30)
@pytest.mark.usefixtures("pooled")
def test_a_fork_with_a_pool(alias: str) -> None:
    """A child that closes what it inherited, as Celery has its children do, captures and commits on its own."""
    async_receiver(post_save, sender=Author, name="noted")(lambda **kwargs: None)
    Author.objects.using(alias).create(name="parent")
    connections[alias].close_pool()  # no socket is shared: what Celery does before it forks
    connections[alias].close()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with transaction.atomic(alias):
                Author.objects.using(alias).create(name="child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    Author.objects.using(alias).create(name="parent again")
    assert outbox(alias).count() == Author.objects.using(alias).count() == 3

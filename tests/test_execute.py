"""Executing and settling: one transaction a delivery, leases, conflicts, and handlers that misbehave."""

from __future__ import annotations

import itertools
import json
import threading
from types import SimpleNamespace
from typing import Any

import celery.exceptions
import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.models import F
from django.db.models.signals import post_save

from signalq import (
    Created,
    async_batch_receiver,
    async_receiver,
    codec,
    current_delivery,
    execute,
    lease,
    load,
    publish,
    wire,
)
from signalq.exceptions import LeaseLost
from signalq.models import Delivery
from signalq.queryset import DeliveryQuerySet, State
from signalq.receivers import registry
from signalq.signals import counts
from tests.steps import come_due, outbox, states, sweep, work
from tests.testapp.models import Author, Effect

pytestmark = pytest.mark.usefixtures("temporary_receivers")


def save(alias: str, name: str = "Ada") -> Author:
    return Author.objects.using(alias).create(name=name)


def effect(alias: str, note: object = "") -> None:
    Effect.objects.using(alias).create(receiver="effect", note=str(note))


def effects(alias: str) -> list[str]:
    return sorted(Effect.objects.using(alias).values_list("note", flat=True))


def queued_ids(alias: str) -> list[int]:
    return list(outbox(alias, state=State.QUEUED).values_list("pk", flat=True))


def test_a_chunk_is_claimed_once(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="counted")
    def counted(instance: Author, **kwargs: Any) -> None:
        effect(alias, instance.name)

    for name in "abc":
        save(alias, name)
    ids = queued_ids(alias)
    for _ in range(2):  # the second message is a double
        execute.run(counted, alias, [*ids, 10**9])
    assert effects(alias) == ["a", "b", "c"]
    assert {row[1:] for row in states(alias)} == {("done", 1)}


def test_a_task_that_runs_eagerly_leaves_the_open_transaction_alone(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="eager")
    def eager(instance: Author, **kwargs: Any) -> None:
        effect(alias, instance.name)

    save(alias, "a")
    with transaction.atomic(alias):
        save(alias, "b")
        execute.run(eager, alias, queued_ids(alias))
    assert effects(alias) == ["a"]
    assert sorted(Author.objects.using(alias).values_list("name", flat=True)) == ["a", "b"]


def test_a_message_wakes_its_own_receiver_only(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="mine")(lambda **kwargs: None)
    other = async_receiver(post_save, sender=Effect, name="other")(lambda **kwargs: None)
    save(alias)
    execute.run(other, alias, queued_ids(alias))
    assert states(alias) == [("mine", "queued", 0)]


def test_a_waiting_delivery_cannot_be_run_early(alias: str) -> None:
    receiver = async_receiver(post_save, sender=Author, name="early", countdown=60)(lambda **kwargs: None)
    save(alias)
    execute.run(receiver, alias, [outbox(alias).get().pk])
    assert states(alias) == [("early", "waiting", 0)]


@pytest.mark.fault(28)
@pytest.mark.parametrize("how", ["save", "create in atomic"])
def test_a_swallowed_database_error_is_never_done(alias: str, how: str) -> None:
    @async_receiver(post_save, sender=Author, name="swallows", when=Created(), dont_autoretry_for=[Exception])
    def swallows(instance: Author, **kwargs: Any) -> None:
        effect(alias, "before")
        try:
            if how == "save":
                Author(pk=instance.pk).save(using=alias, force_insert=True)
            else:
                with transaction.atomic(alias, savepoint=False):
                    raise IntegrityError
        except IntegrityError:
            pass

    save(alias)
    work(alias)
    delivery = outbox(alias).get()
    assert (delivery.state, effects(alias)) == ("dead", [])
    assert "atomic=False" in delivery.errors[-1]["message"]


def test_an_error_in_an_inner_atomic_may_be_swallowed(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="careful", when=Created())
    def careful(instance: Author, **kwargs: Any) -> None:
        effect(alias, "kept")
        try:
            with transaction.atomic(alias):
                Author(pk=instance.pk).save(using=alias, force_insert=True)
        except IntegrityError:
            pass

    save(alias)
    work(alias)
    assert (states(alias), effects(alias)) == ([("careful", "done", 1)], ["kept"])


def test_the_handler_s_hook_raising_after_the_commit_leaves_it_done(
    alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    def raises() -> None:
        raise ZeroDivisionError

    @async_receiver(post_save, sender=Author, name="hooked")
    def hooked(**kwargs: Any) -> None:
        effect(alias, "kept")
        transaction.on_commit(raises, using=alias)

    save(alias)
    work(alias)
    assert (states(alias), effects(alias)) == ([("hooked", "done", 1)], ["kept"])
    assert "on_commit hook raised after its delivery was done" in caplog.text


def test_a_lost_lease_rolls_the_handler_back(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="slow")
    def slow(**kwargs: Any) -> None:
        effect(alias, "must go")
        outbox(alias).update(attempt=F("attempt") + 1)  # the next worker has claimed it

    save(alias)
    before = counts["lease_lost"]
    work(alias)
    # The other worker's claim was made inside this transaction, so it is gone with it.
    assert (states(alias), effects(alias)) == ([("slow", "running", 1)], [])
    assert counts["lease_lost"] == before + 1


def test_without_a_transaction_of_its_own_a_handler_s_writes_stay(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="outside", atomic=False, max_retries=0)
    def outside(**kwargs: Any) -> None:
        assert not connections[alias].in_atomic_block
        effect(alias, "kept")
        raise ValueError

    save(alias)
    work(alias)
    assert (states(alias), effects(alias)) == ([("outside", "dead", 1)], ["kept"])


def test_a_conflict_is_tried_again_and_counts_no_attempt(alias: str) -> None:
    tries = []

    class Deadlock(Exception):
        sqlstate = "40P01"
        sqlite_errorcode = 5

    @async_receiver(post_save, sender=Author, name="conflicted")
    def conflicted(**kwargs: Any) -> None:
        effect(alias, "once")
        tries.append(current_delivery().attempt)  # type: ignore[union-attr]
        if len(tries) < 4:
            raise OperationalError(1213, "deadlock") from Deadlock()

    save(alias)
    work(alias)
    assert tries == [1, 1, 1, 1]
    assert (states(alias), effects(alias)) == ([("conflicted", "done", 1)], ["once"])
    assert outbox(alias).get().errors == []


def test_system_exit_is_recorded_and_ends_the_process(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="exits")
    def exits(instance: Author, **kwargs: Any) -> None:
        if instance.name == "exit":
            raise SystemExit(3)

    save(alias, "exit")
    save(alias, "next")
    with pytest.raises(SystemExit):
        work(alias)
    assert sorted(row[1:] for row in states(alias)) == [("queued", 0), ("waiting", 1)]


@pytest.mark.fault(31)
def test_an_instance_changed_by_a_failing_neighbour_is_not_seen(alias: str) -> None:
    seen: list[int] = []

    @async_receiver(post_save, sender=Author, name="neighbours")
    def neighbours(instance: Author, **kwargs: Any) -> None:
        seen.append(instance.counter)
        instance.counter += 1
        if len(seen) == 1:
            raise ValueError
        instance.save(update_fields=["counter"])

    author = save(alias)
    author.save()
    outbox(alias).update(receiver="neighbours")
    neighbours.disconnect()
    work(alias)
    assert seen == [0, 0]
    author.refresh_from_db()
    assert author.counter == 1


def test_a_chunk_loads_its_rows_with_one_query(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "FRESH", 60.0)  # a slow machine does not count
    loads: list[str] = []

    def count(execute_sql: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("SELECT") and "testapp_author" in sql:
            loads.append(sql)
        return execute_sql(sql, *rest)

    @async_receiver(post_save, sender=Author, name="loads")
    def loads_its_row(instance: Author, **kwargs: Any) -> None:
        assert instance.name

    for number in range(20):
        save(alias, str(number))
    with connections[alias].execute_wrapper(count):
        work(alias)
    assert len(loads) == 1
    assert {state for _, state, _ in states(alias)} == {"done"}


def test_rows_that_wait_long_in_a_chunk_are_loaded_again_together(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(load, "time", SimpleNamespace(monotonic=lambda: load.FRESH / 5 * next(clock)))
    loads: list[str] = []
    seen: list[int] = []

    def count(execute_sql: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("SELECT") and "testapp_author" in sql:
            loads.append(sql)
        return execute_sql(sql, *rest)

    @async_receiver(post_save, sender=Author, name="waits")
    def waits(instance: Author, **kwargs: Any) -> None:
        seen.append(instance.counter)
        if len(seen) == 1:
            Author.objects.using(alias).update(counter=1)

    for number in range(30):
        save(alias, str(number))
    with connections[alias].execute_wrapper(count):
        work(alias)
    assert sum(seen) > 20, "those that waited are as they are now"
    assert len(loads) < 12
    assert {state for _, state, _ in states(alias)} == {"done"}


def test_a_connection_is_kept_for_the_next_message(alias: str) -> None:
    """Celery closes it between tasks, unless CELERY_DB_REUSE_MAX says that it is to be kept."""
    async_receiver(post_save, sender=Author, name="kept")(lambda **kwargs: None)
    assert connections[alias].settings_dict["CONN_MAX_AGE"] == 0
    used = set()
    for _ in range(3):
        save(alias)
        work(alias)
        used.add(id(connections[alias].connection))
    assert len(used) == 1
    assert {state for _, state, _ in states(alias)} == {"done"}


def test_a_kept_connection_that_the_server_has_closed(alias: str) -> None:
    ends = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(%s)"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL CONNECTION %s"),
    }
    if connections[alias].vendor not in ends:
        return  # SQLite has no server
    async_receiver(post_save, sender=Author, name="closed")(lambda **kwargs: None)
    save(alias)
    ids = list(outbox(alias).values_list("pk", flat=True))
    who, end = ends[connections[alias].vendor]
    other = connections[alias].copy()
    with connections[alias].cursor() as ours, other.cursor() as theirs:
        ours.execute(who)
        theirs.execute(end, ours.fetchone())
    other.close()
    execute.run(registry["closed"], alias, ids)
    assert [state for _, state, _ in states(alias)] == ["done"]


def test_what_a_chunk_has_not_begun_is_handed_back(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[wire.Item] = []
    monkeypatch.setattr(publish, "send", sent.extend)
    monkeypatch.setattr(lease, "CHUNK_SECONDS", -1.0)

    @async_receiver(post_save, sender=Author, name="chunked")
    def chunked(**kwargs: Any) -> None: ...

    with transaction.atomic(alias):
        for name in "abc":
            save(alias, name)
    sent.clear()
    work(alias)
    assert sorted(row[1:] for row in states(alias)) == [("done", 1), ("queued", 0), ("queued", 0)]
    assert sorted(item.id for item in sent if isinstance(item, wire.Wake)) == queued_ids(alias)


def test_a_handler_longer_than_its_lease_keeps_it_and_frees_the_others(alias: str, settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "LEASE": 2}
    renewed = threading.Event()
    handed_back = threading.Event()
    real_renew, real_hand_back = DeliveryQuerySet.renew, DeliveryQuerySet.hand_back

    def renew(self: DeliveryQuerySet, *args: Any) -> int:
        number = real_renew(self, *args)
        renewed.set()
        return number

    def hand_back(self: DeliveryQuerySet, *args: Any) -> int:
        number = real_hand_back(self, *args)
        handed_back.set()
        return number

    @async_receiver(post_save, sender=Author, name="long", atomic=False)
    def long(**kwargs: Any) -> None:
        assert handed_back.wait(10)
        for _ in range(3):
            renewed.clear()
            assert renewed.wait(10)
        assert sweep(alias) == 0  # nothing has come due: neither it nor the one that was handed back

    save(alias, "a")
    save(alias, "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeliveryQuerySet, "renew", renew)
        patch.setattr(DeliveryQuerySet, "hand_back", hand_back)
        work(alias)
    assert sorted(row[1:] for row in states(alias)) == [("done", 1), ("queued", 0)]
    assert outbox(alias, lost_leases__gt=0).count() == 0


def test_a_worker_that_dies_is_noticed_and_its_victims_travel_alone(
    alias: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    sent: list[wire.Item] = []
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(publish.publisher, "put", lambda items: None)
    monkeypatch.setattr(wire.Channel, "send", lambda self, items: sent.extend(items))
    monkeypatch.setattr(wire.Channel, "queue", lambda self, receiver: "celery")
    monkeypatch.setattr(wire.Channel, "depth", lambda self, queue: 0)
    receiver = async_receiver(post_save, sender=Author, name="victims")(lambda **kwargs: None)
    for name in "ab":
        save(alias, name)
    for lost in (1, 2, 3):
        assert len(Delivery.objects.using(alias).claim(receiver.names, queued_ids(alias), 20)) == 2
        assert sweep(alias) == 0
        come_due(alias)
        sent.clear()
        sweep(alias)
        assert set(outbox(alias).values_list("lost_leases", flat=True)) == {lost}
        assert [item.alone for item in sent if isinstance(item, wire.Wake)] == ([True, True] if lost < 3 else [])
    assert {state for _, state, _ in states(alias)} == {"dead"}
    assert "worker that ran it died" in outbox(alias).first().errors[-1]["message"]  # type: ignore[union-attr]


def test_a_zombie_cannot_settle_after_a_replay(alias: str) -> None:
    receiver = async_receiver(post_save, sender=Author, name="zombie", max_retries=0)(lambda **kwargs: 1 / 0)
    save(alias)
    (zombie,) = Delivery.objects.using(alias).claim(receiver.names, queued_ids(alias), 20)
    come_due(alias)
    sweep(alias)
    work(alias)
    assert states(alias) == [("zombie", "dead", 2)]
    outbox(alias).replay()
    Delivery.objects.using(alias).claim(receiver.names, queued_ids(alias), 20)
    with pytest.raises(LeaseLost):
        zombie.set_done()


def test_a_replay_grants_all_the_retries_again(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="again", max_retries=1, retry_backoff=0)(lambda **kwargs: 1 / 0)
    save(alias)
    for expected in (2, 4):
        for _ in range(2):
            work(alias)
            come_due(alias)
            sweep(alias)
        assert states(alias) == [("again", "dead", expected)]
        outbox(alias).replay()


@pytest.mark.fault(26)
def test_an_endless_cascade_stops_with_its_chain(alias: str, settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "MAX_DEPTH": 2}

    @async_receiver(post_save, sender=Author, name="loops")
    def loops(instance: Author, **kwargs: Any) -> None:
        instance.save()

    save(alias)
    for _ in range(5):
        work(alias)
    assert [row[1] for row in states(alias)] == ["done", "done", "dead"]
    message = outbox(alias, state="dead").get().errors[-1]["message"]
    assert "loops -> loops -> loops" in message
    assert "MAX_DEPTH" in message


def test_an_event_from_a_newer_version_is_parked(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="newer")(lambda **kwargs: None)
    save(alias)
    delivery = outbox(alias).get()
    outbox(alias).update(payload=delivery.payload.replace('"v":1', '"v":2', 1))
    work(alias)
    assert states(alias) == [("newer", "waiting", 1)]
    assert "update the worker" in outbox(alias).get().errors[-1]["message"]


def test_what_was_parked_has_all_its_retries_left(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="newer", max_retries=1, retry_backoff=0)(lambda **kwargs: 1 / 0)
    save(alias)
    payload = outbox(alias).get().payload
    outbox(alias).update(payload=payload.replace('"v":1', '"v":2', 1))
    for parked in (1, 2, 3):
        work(alias)
        assert states(alias) == [("newer", "waiting", parked)]
        come_due(alias)
        sweep(alias)
    outbox(alias).update(payload=payload)  # the worker was updated
    for attempt, state in ((4, "waiting"), (5, "dead")):
        work(alias)
        assert states(alias) == [("newer", state, attempt)]
        come_due(alias)
        sweep(alias)


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded, MemoryError])
@pytest.mark.parametrize("kind", [async_receiver, async_batch_receiver])
def test_an_interruption_while_an_event_is_read_is_no_damage(
    alias: str, kind: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised wherever the process is: here, where an Enum looks for its member."""
    real = codec.decode

    def interrupted(value: Any) -> Any:
        raise error

    kind(post_save, sender=Author, name="interrupted", retry_backoff=0)(lambda *events, **kwargs: effect(alias, "once"))
    save(alias)
    monkeypatch.setattr(codec, "decode", interrupted)
    work(alias)
    monkeypatch.setattr(codec, "decode", real)
    assert states(alias) == [("interrupted", "waiting", 1)]
    assert error.__name__ in outbox(alias).get().errors[-1]["type"]
    come_due(alias)
    sweep(alias)
    work(alias)
    assert (states(alias), effects(alias)) == ([("interrupted", "done", 2)], ["once"])


def test_an_interruption_while_a_chunk_is_loaded_hands_it_back(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **lookup: Any) -> Any:
        raise SoftTimeLimitExceeded

    async_receiver(post_save, sender=Author, name="chunk")(lambda **kwargs: None)
    for name in "ab":
        save(alias, name)
    monkeypatch.setattr(load, "_rows", interrupted)
    with pytest.raises(SoftTimeLimitExceeded):
        work(alias)
    assert states(alias) == [("chunk", "queued", 0)] * 2


def test_what_quotes_a_value_in_a_damaged_event_is_not_logged(alias: str, caplog: pytest.LogCaptureFixture) -> None:
    async_receiver(post_save, sender=Author, name="quotes")(lambda **kwargs: None)
    save(alias)
    payload = json.loads(outbox(alias).get().payload)
    payload["id"] = "personal-data"
    payload["arguments"]["raw"] = {"$": "uuid", "v": "personal-data"}
    outbox(alias).update(payload=json.dumps(payload))
    work(alias)
    assert [row[1] for row in states(alias)] == ["dead"]
    assert "This is not an event's text: ValueError." in caplog.text
    assert "personal-data" not in caplog.text + str(outbox(alias).get().errors)


def test_a_renamed_receiver_keeps_its_idempotency_keys(alias: str) -> None:
    keys: list[str] = []

    def handler(**kwargs: Any) -> None:
        keys.append(current_delivery().idempotency_key)  # type: ignore[union-attr]
        if len(keys) == 1:
            raise ValueError

    async_receiver(post_save, sender=Author, name="old", retry_backoff=0)(handler)
    save(alias)
    work(alias)
    registry.remove(registry["old"])
    async_receiver(post_save, sender=Author, name="new", aliases=["old"])(handler)
    come_due(alias)
    sweep(alias)
    work(alias)
    assert keys == [outbox(alias).get().result_id] * 2


@pytest.mark.parametrize("payload", ["", "nonsense", "[]", '{"v": 1}', '{"v":"x"}', "[" * 100_000])
def test_a_damaged_event_is_a_dead_letter(alias: str, payload: str) -> None:
    async_receiver(post_save, sender=Author, name="damaged")(lambda **kwargs: None)
    save(alias)
    outbox(alias).update(payload=payload)
    work(alias)
    assert [row[1] for row in states(alias)] == ["dead"]


def test_nothing_runs_for_a_receiver_that_is_unknown_here(alias: str) -> None:
    receiver = async_receiver(post_save, sender=Author, name="unknown")(lambda **kwargs: None)
    save(alias)
    registry.remove(receiver)
    come_due(alias)
    assert sweep(alias) == 0
    assert states(alias) == [("unknown", "queued", 0)]


def test_an_alias_serves_what_was_recorded_under_the_old_name(alias: str) -> None:
    async_receiver(post_save, sender=Author, name="old")(lambda **kwargs: None).disconnect()
    registry.remove(registry["old"])
    async_receiver(post_save, sender=Author, name="old")(lambda **kwargs: None)
    save(alias)
    registry.remove(registry["old"])
    async_receiver(post_save, sender=Author, name="new", aliases=["old"])(lambda **kwargs: None)
    work(alias)
    assert states(alias) == [("old", "done", 1)]


def test_a_conflict_outside_a_transaction_counts_as_a_failure(alias: str) -> None:
    tries = []

    class Deadlock(Exception):
        sqlstate = "40P01"
        sqlite_errorcode = 5

    @async_receiver(post_save, sender=Author, name="outside_conflict", atomic=False)
    def outside_conflict(**kwargs: Any) -> None:
        tries.append("an email is sent")
        raise OperationalError(1213, "deadlock") from Deadlock()

    save(alias)
    work(alias)
    assert len(tries) == 1
    assert states(alias) == [("outside_conflict", "waiting", 1)]


def test_celery_s_own_retry_says_what_to_raise_instead(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="mistaken")
    def mistaken(**kwargs: Any) -> None:
        raise celery.exceptions.Retry

    save(alias)
    work(alias)
    assert states(alias) == [("mistaken", "waiting", 1)]
    assert "raise signalq.Retry(countdown=...)" in outbox(alias).get().errors[-1]["message"]

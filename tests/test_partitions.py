"""The outbox as a partitioned table, by the SQL of docs/scale.md: every step of a delivery, and a partition's end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.models.signals import post_save

from signalq import async_receiver
from signalq.models import Delivery
from signalq.queryset import State
from tests.conftest import empty_database
from tests.docs.blocks import blocks
from tests.integration.harness import ROOT
from tests.steps import come_due, outbox, states, sweep, work
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.plugin import DjangoDbBlocker

pytestmark = pytest.mark.usefixtures("temporary_receivers")

PARTITION, RETIRE = (block.text for block in blocks(ROOT / "docs/scale.md", "sql") if "PARTITION" in block.text)
FIRST_ENDS = 20
"""In place of the page's ten million: the rows of these tests lie on both sides of it."""


def execute(sql: str) -> None:
    small = sql.replace("10000000", str(FIRST_ENDS)).replace("20000000", "1000000")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(small)


@pytest.fixture(autouse=True)
def partitioned(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock():
        empty_database("default")
        call_command("migrate", "signalq", "zero", verbosity=0)
        call_command("migrate", "signalq", verbosity=0)  # ids from 1
        execute(PARTITION)
        yield
        call_command("migrate", "signalq", "zero", verbosity=0)
        call_command("migrate", "signalq", verbosity=0)
        empty_database("default")


@pytest.fixture
def handled() -> list[int]:
    """What a receiver of authors has handled; it fails for those without a name."""
    seen: list[int] = []

    def greet(instance: Author, **kwargs: Any) -> None:
        if not instance.name:
            raise ValueError("no name")
        seen.append(instance.pk)

    async_receiver(post_save, sender=Author, name="greet", max_retries=1)(greet)
    return seen


def save(number: int, name: str = "Ada") -> list[int]:
    """In one transaction; the authors' keys."""
    with transaction.atomic():
        return [Author.objects.create(name=name).pk for _ in range(number)]


def rows_of(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM signalq_delivery WHERE tableoid = %s::regclass", [table])
        return int(cursor.fetchone()[0])


def test_deliveries_are_recorded_claimed_and_done_in_both_partitions(handled: list[int]) -> None:
    authors = save(2) + save(30)  # VALUES, and one JSON parameter
    first, second = rows_of("signalq_delivery_0"), rows_of("signalq_delivery_1")
    assert first > 0
    assert second > 0
    assert first + second == 32
    work("default")
    assert handled == authors
    assert set(states("default")) == {("greet", "done", 1)}


def test_a_failure_is_tried_again_dies_and_is_replayed(handled: list[int]) -> None:
    save(FIRST_ENDS + 10, name="")
    work("default")
    come_due("default")
    assert sweep("default") == FIRST_ENDS + 10
    work("default")
    assert set(states("default")) == {("greet", "dead", 2)}
    assert len(Delivery.objects.using("default").replay()) == FIRST_ENDS + 10
    Author.objects.update(name="Ada")
    work("default")
    assert set(states("default")) == {("greet", "done", 3)}


def test_what_is_done_is_pruned(handled: list[int]) -> None:
    save(FIRST_ENDS + 10)
    work("default")
    assert Delivery.objects.using("default").prune(0, 1_000) == FIRST_ENDS + 10


def test_claims_at_once_take_each_delivery_once(handled: list[int]) -> None:
    save(200)
    ids = list(outbox("default").values_list("pk", flat=True))
    taken: list[int] = []

    def claim() -> None:
        for start in range(0, len(ids), 10):
            claimed = Delivery.objects.using("default").claim(["greet"], ids[start : start + 20], 20.0)
            taken.extend(delivery.pk for delivery in claimed)
        connections.close_all()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ids


def test_a_partition_ends_and_what_is_not_finished_goes_on(handled: list[int]) -> None:
    done, dead, running, queued = save(2), save(1, name=""), save(1), save(1)
    for _ in range(2):
        work_on(done + dead)
        come_due("default", state=State.WAITING)
        sweep("default")
    (held,) = Delivery.objects.using("default").claim(["greet"], ids_of(running), 20.0)
    execute(RETIRE)
    assert [state for _, state, _ in states("default")] == ["dead", "running", "queued"]
    assert rows_of("signalq_delivery_rest") == 3
    held.set_done()  # the worker that held it while its partition went
    save(1)
    work("default")
    assert handled == [*done, *queued, Author.objects.latest("pk").pk]
    assert [state for _, state, _ in states("default")] == ["dead", "done", "done", "done"]


def ids_of(authors: list[int]) -> list[int]:
    return list(outbox("default", object_pk__in=[str(pk) for pk in authors]).values_list("pk", flat=True))


def work_on(authors: list[int]) -> None:
    from signalq.execute import run
    from signalq.receivers import registry

    run(registry["greet"], "default", ids_of(authors))

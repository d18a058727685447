"""No statement of a delivery's way, or of the relay's, reads more than it takes, however many rows lie beside it.

The plans are those of the statements really executed, taken at their very moment. With `stale` statistics the planner
believes in the outbox at rest that it saw last: no row queued, and a receiver that it has never heard of.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction
from django.db.models.signals import post_save

from signalq import async_receiver, conf, execute, publish, wire
from signalq.lease import Lease
from signalq.models import Delivery
from signalq.queryset import State
from signalq.receivers import registry
from signalq.relay import Relay
from tests.faults.rows import analyse, multiply
from tests.steps import outbox
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable

BESIDE = 20_000
"""Rows of each kind that lie beside those in question."""
READ = 2_500
"""Rows that one statement may read: of two batches and a bit, since a row is looked up after its index."""
STATEMENTS = 16
"""Different ones that have to be seen, or the test has missed some of the way."""
SQLITE = re.compile(
    r"USING (INTEGER PRIMARY KEY|(COVERING )?INDEX signalq_(due \(receiver=\? AND state=\?( AND due_at.*)?\)"
    r"|finished \(state=\? AND finished_at[<>]\?.*\)|key \(key=\? AND finished_at=\?.*\)))"
)
SPARED = re.compile(r"^(SAVEPOINT|RELEASE|ROLLBACK|BEGIN|EXPLAIN)")


class Reading:
    """Wraps the execution of statements, and keeps those that read what they do not take."""

    def __init__(self, alias: str) -> None:
        self.connection = connections[alias]
        self.wrong: list[str] = []
        self.seen: set[str] = set()
        self._asking = False

    def __enter__(self) -> None:
        self.connection.execute_wrappers.append(self)

    def __exit__(self, *_: object) -> None:
        self.connection.execute_wrappers.remove(self)

    def __call__(self, run: Callable[..., Any], sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if self._asking or "signalq_delivery" not in sql or SPARED.match(sql):
            return run(sql, parameters, many, context)
        self.seen.add(re.sub(r"(%s,? ?)+", "%s", sql)[:300])
        look = getattr(self, f"_{self.connection.vendor}")
        self._asking = True
        try:
            problems = look(sql, parameters)
        finally:
            self._asking = False
        self.wrong += [f"{problem}: {sql[:400]}" for problem in problems]
        return run(sql, parameters, many, context)

    def _ask(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def _postgresql(self, sql: str, parameters: Any) -> list[str]:
        with transaction.atomic(self.connection.alias):
            plan = self._ask(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)[0][0][0]["Plan"]
            transaction.set_rollback(True, self.connection.alias)
        problems = []
        for node in _nodes(plan):
            rows = node["Actual Rows"] * node["Actual Loops"]
            removed = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
            if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "signalq_delivery":
                problems.append("reads the whole table")
            if "Scan" in node["Node Type"] and rows + removed * node["Actual Loops"] > READ:
                problems.append(f"{node['Node Type']} reads {rows:.0f} and drops {removed * node['Actual Loops']:.0f}")
            if node["Node Type"] == "Sort" and rows > READ:
                problems.append(f"sorts {rows:.0f}")
        return problems

    def _sqlite(self, sql: str, parameters: Any) -> list[str]:
        details = [row[3] for row in self._ask(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        reads = [detail for detail in details if re.search(r"(SCAN|SEARCH) .*(signalq_delivery|U0|U1)", detail)]
        return [detail for detail in reads if not SQLITE.search(detail)]

    def _mysql(self, sql: str, parameters: Any) -> list[str]:
        # What it really reads, undone: the estimates of EXPLAIN know nothing of LIMIT.
        with transaction.atomic(self.connection.alias):
            before = self._handler()
            with self.connection.cursor() as cursor:
                cursor.execute(sql, parameters)
            read = self._handler() - before
            transaction.set_rollback(True, self.connection.alias)
        return [f"reads {read}"] if read > 2 * READ else []

    def _handler(self) -> int:
        return sum(int(value) for _, value in self._ask("SHOW SESSION STATUS LIKE 'Handler_read_%%'"))


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]


@pytest.fixture
def quiet(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is published, and nothing arrives; the queue of `busy` is full."""
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(publish.publisher, "put", lambda items: None)
    monkeypatch.setattr(wire.Channel, "send", lambda self, items: list(items))
    monkeypatch.setattr(wire.Channel, "queue", lambda self, receiver: receiver)
    monkeypatch.setattr(wire.Channel, "depth", lambda self, queue: 1_000 if queue == "busy" else 0)


def surround(alias: str, statistics: str) -> None:
    """Rows of every kind beside those in question, analysed before or after they came to be queued."""
    now = {"postgresql": "now()", "mysql": "NOW(6)", "sqlite": "STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')"}
    vendor = connections[alias].vendor
    past = "'2020-01-01 00:00:00'"
    finished = {"finished_at": past, "due_at": "NULL"}
    multiply(alias, BESIDE, {**finished, "state": "'dead'"})
    key = "CONCAT('key ', n)" if vendor == "mysql" else "'key ' || n"
    multiply(alias, BESIDE, {**finished, "state": "'done'", "finished_at": now[vendor], "key": key})
    if statistics == "stale":
        analyse(alias)
    multiply(alias, BESIDE, {"receiver": "'busy'", "state": "'queued'", "due_at": past})
    multiply(alias, BESIDE, {"receiver": "'unknown here'", "state": "'waiting'", "due_at": past})
    multiply(alias, BESIDE, {"receiver": "'hot'", "state": "'queued'"})
    multiply(alias, 1_000, {**finished, "state": "'discarded'"})
    if statistics == "fresh":
        analyse(alias)


@pytest.mark.usefixtures("temporary_receivers", "quiet")
@pytest.mark.parametrize("statistics", ["fresh", "stale"])
@pytest.mark.fault(21)
def test_no_statement_reads_more_than_it_takes(
    alias: str, statistics: str, settings: Any, figures: Callable[..., None]
) -> None:
    for name, options in {
        "hot": {},
        "busy": {},
        "ordered": {"ordered": True},
        "merged": {"coalesce": 0, "key": "name"},
    }.items():
        async_receiver(post_save, sender=Author, name=name, expires=3600, **options)(lambda **kwargs: None)
    author = Author.objects.using(alias).create(name="Ada")
    outbox(alias).exclude(receiver="hot").delete()
    surround(alias, statistics)
    reading = Reading(alias)
    record_and_run(alias, author, reading)
    lease_and_hand_back(alias, reading)
    with reading:
        Relay([alias]).round()
    assert not reading.wrong, "\n".join(reading.wrong)
    figures(rows_beside=outbox(alias).count(), statements=len(reading.seen))
    assert len(reading.seen) >= STATEMENTS, "\n".join(sorted(reading.seen))


@pytest.mark.usefixtures("temporary_receivers", "quiet")
@pytest.mark.parametrize("alias", ["default"], indirect=True)  # the one whose planner may change its mind
@pytest.mark.parametrize("believed", [1, 1_000, 3_000])
@pytest.mark.fault(21)
def test_pruning_reads_no_more_than_it_deletes(alias: str, believed: int) -> None:
    """With statistics from when there were few old rows."""
    async_receiver(post_save, sender=Author, name="hot")(lambda **kwargs: None)
    Author.objects.using(alias).create(name="Ada")
    outbox(alias).update(state=State.DONE, due_at=None, finished_at="2020-01-01T00:00:00Z")
    multiply(alias, believed)
    analyse(alias)
    multiply(alias, 2 * BESIDE)
    reading = Reading(alias)
    with reading:
        assert outbox(alias).prune(1, 1_000) == 1_000
    assert not reading.wrong, "\n".join(reading.wrong)


def newest(alias: str, name: str, number: int) -> list[int]:
    rows = Delivery.objects.using(alias).filter(receiver=name, state=State.QUEUED)
    return list(rows.order_by("-pk").values_list("pk", flat=True)[:number])


def record_and_run(alias: str, author: Author, reading: Reading) -> None:
    """Recorded in one transaction, and run in chunks: plain, of one key in order, and as one."""
    with reading, transaction.atomic(alias):
        for _ in range(50):
            author.save(using=alias)
    for name in ("hot", "ordered", "merged"):
        ids = newest(alias, name, conf.current().CHUNK)
        with reading:
            execute.run(registry[name], alias, ids)


def lease_and_hand_back(alias: str, reading: Reading) -> None:
    ids = newest(alias, "hot", 10)
    with reading:
        claimed = Delivery.objects.using(alias).claim(["hot"], ids, 20)
        assert Delivery.objects.using(alias).renew(claimed[:5], 20) == 5
        with Lease(alias, claimed) as lease:
            lease.take(1)
        Delivery.objects.using(alias).set_done(claimed[:2])

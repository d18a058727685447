"""A backlog: workers are stopped, rows pile up, and nothing is repeated but what is lost. Row 21, and 14."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction
from django.db.models import Sum
from django.db.models.signals import post_save

from signalq import async_receiver
from signalq.models import Delivery
from signalq.queryset import State
from signalq.receivers import registry
from tests.faults import queues
from tests.faults.rows import analyse, multiply
from tests.integration.harness import Process, wait_for
from tests.integration.outcome import check_each_author_has_each_effect_once, states
from tests.steps import outbox
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.harness import Site

pytestmark = [pytest.mark.timeout(2400), pytest.mark.fault(21)]

QUICK = {"LEASE": 3, "GRACE": 4}
PER_DELIVERY = 1.1
"""Messages naming a delivery, over deliveries; each is published once."""
RECEIVERS = 3
"""Of each save; see tests/integration/shop."""
SOON = 30
"""Seconds after the fault's end, beside those that the work itself needs."""
STALLED = 60
"""Seconds without anything done."""
FLAT = 1.1
"""Memory with ten times as many rows, over that with the few."""

ON_POSTGRES = pytest.mark.parametrize(
    ("alias", "broker"), [("default", "redis"), ("default", "rabbitmq")], indirect=True
)
ON_REDIS = pytest.mark.parametrize(("alias", "broker"), [("default", "redis")], indirect=True)


class Backlog:
    """Saves without a worker, and any number of relays beside them."""

    def __init__(self, site: Site, alias: str, broker: str, settings: dict[str, Any]) -> None:
        self.site, self.alias, self.broker = site, alias, broker
        self.grace: float = settings.get("GRACE", 10)
        site.env["DJANGO_SETTINGS_MODULE"] = "tests.faults.backlog_settings"
        site.env["SIGNALQ_FAULTS_SETTINGS"] = json.dumps({"RELAY": False, **settings})

    def relay(self) -> Process:
        command = [sys.executable, "-m", "django", "signalq", "relay", "--database", "default"]
        log = self.site.scratch / f"{len(self.site.processes)}-relay.log"
        process = Process("relay", command, log, self.site.env)
        self.site.processes.append(process)
        return process

    def save(self, count: int) -> int:
        """So many saves, published; how many deliveries that is."""
        self.site.saver().ask("save_in_one_transaction", count=count, rolled_back=0)
        wait_for(lambda: self.published() >= count * RECEIVERS, "the publisher to publish them", 60)
        return count * RECEIVERS

    def published(self) -> int:
        """By savers and relays. What a worker hands back of a chunk it publishes as well: another matter."""
        return self.published_by("saver") + self.published_by("relay")

    def published_by(self, process: str) -> int:
        """Deliveries that messages have named."""
        log = self.site.scratch / f"published-by-{process}.log"
        return sum(int(line) for line in log.read_text().split()) if log.exists() else 0

    def drain(self, deliveries: int) -> float:
        """Start a worker; seconds until everything is done. It takes as long as the machine does, but never stops."""
        started = moved = time.monotonic()
        done = 0
        self.site.worker()
        while done < deliveries:
            assert time.monotonic() - moved < STALLED, f"{deliveries} to be done; {states(self.alias)}"
            time.sleep(0.3)
            if (now := outbox(self.alias, state=State.DONE).count()) > done:
                done, moved = now, time.monotonic()
        seconds = time.monotonic() - started
        check_each_author_has_each_effect_once(self.alias)
        return seconds

    def rewritten(self) -> float:
        """Times that relays have written each row."""
        return float(outbox(self.alias).aggregate(sum=Sum("repeats"))["sum"] or 0) / outbox(self.alias).count()


@pytest.fixture
def backlog(site: Site, alias: str, broker: str, long: bool) -> Backlog:
    return Backlog(site, alias, broker, {} if long else QUICK)


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("alias", "broker", "relays"), [("default", "redis", 1), ("default", "rabbitmq", 4)], indirect=["alias", "broker"]
)
def test_nothing_is_repeated_while_it_waits(
    backlog: Backlog, relays: int, long: bool, figures: Callable[..., None]
) -> None:
    # Five minutes of 100,000 deliveries once; with more relays a smaller one. At its end up to 800 are in the hands of
    # the worker's two children, where no relay sees them, and may be published again.
    deliveries = backlog.save((33_334 if relays == 1 else 4_000) if long else 3_400)
    for _ in range(relays):
        backlog.relay()
    stopped = 300 if long and relays == 1 else 60 if long else 10
    time.sleep(stopped)  # that nothing happens has no event to be waited for
    rewritten = backlog.rewritten()
    seconds = backlog.drain(deliveries)
    ratio = backlog.published() / deliveries
    figures(
        deliveries=deliveries,
        seconds_stopped=stopped,
        relays=relays,
        messages_per_delivery=ratio,
        handed_back_per_delivery=backlog.published_by("worker") / deliveries,
        writes_per_row=rewritten,
        done_per_second=deliveries / seconds,
    )
    assert ratio <= PER_DELIVERY
    assert rewritten <= PER_DELIVERY - 1


@ON_POSTGRES
def test_a_backlog_whose_messages_are_lost_is_published_again_at_once(
    backlog: Backlog, request: pytest.FixtureRequest, long: bool, figures: Callable[..., None]
) -> None:
    """After any time: it is not its age that counts."""
    deliveries = backlog.save(2_000 if long else 1_000)
    backlog.relay()
    time.sleep(60 if long else 5)
    before = backlog.published()
    assert before <= deliveries * PER_DELIVERY
    _lose_everything(request, backlog.broker)
    lost = time.monotonic()
    again = lambda: backlog.published() - before >= deliveries * 0.9  # noqa: E731
    wait_for(again, lambda: f"{backlog.published()} published", SOON)
    seconds = time.monotonic() - lost
    drained = backlog.drain(deliveries)
    figures(deliveries=deliveries, seconds_to_published_again=seconds, seconds_to_drain=drained)
    assert seconds < backlog.grace + 10


def _lose_everything(request: pytest.FixtureRequest, broker: str) -> None:
    if broker.startswith("amqp"):
        request.getfixturevalue("rabbitmq_service").purge()
        return
    with queues.client(broker) as client:
        client.flushdb()


@ON_REDIS
def test_a_relay_s_memory_does_not_grow_with_the_backlog(
    backlog: Backlog, long: bool, figures: Callable[..., None], temporary_receivers: None
) -> None:
    few = 100_000 if long else 5_000
    template(backlog.alias)
    relay = backlog.relay()
    peaks = []
    for number in (few, 10 * few):
        multiply(backlog.alias, number - outbox(backlog.alias).count())
        peaks.append(publish_all(backlog, relay, number))
    relay.kill()
    figures(rows=10 * few, mib_few=peaks[0], mib_many=peaks[1], ratio=peaks[1] / peaks[0])
    assert peaks[1] <= peaks[0] * FLAT


def publish_all(backlog: Backlog, relay: Process, number: int) -> float:
    """The relay's peak, in MiB, while it publishes all that is due, its queue emptied again and again."""

    def published() -> bool:
        with queues.client(backlog.broker) as client:
            client.flushdb()
        return not outbox(backlog.alias, repeats=0).exists()

    wait_for(published, f"{number} rows to be published", 300, poll=0.1)
    return peak_of(relay)


def peak_of(process: Process) -> float:
    """The most memory it has had, in MiB. The kernel remembers it: what is soon done is over between two looks."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    [kib] = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 2**10


@ON_REDIS
def test_a_relay_s_memory_does_not_grow_with_what_it_prunes(
    backlog: Backlog, long: bool, figures: Callable[..., None], temporary_receivers: None
) -> None:
    few = 100_000 if long else 5_000
    peaks = []
    for number in (few, 10 * few):
        template(backlog.alias, state=State.DONE)
        past = "'2020-01-01 00:00:00'"
        multiply(backlog.alias, number, {"state": "'done'", "due_at": "NULL", "finished_at": past})
        relay = backlog.relay()
        # To count a million rows takes a while.
        wait_for(lambda: outbox(backlog.alias).count() <= 1, f"{number} rows to be pruned", 300, poll=0.5)
        peaks.append(peak_of(relay))
        relay.kill()
        outbox(backlog.alias).delete()
    figures(rows=10 * few, mib_few=peaks[0], mib_many=peaks[1], ratio=peaks[1] / peaks[0])
    assert peaks[1] <= peaks[0] * FLAT


def template(alias: str, **changes: Any) -> None:
    """One delivery of the shop's first receiver, due long ago unless told otherwise, to be copied."""
    name = "tests.integration.shop.receivers.first"
    async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    Author.objects.using(alias).create(name="Ada")
    registry.remove(registry[name])
    outbox(alias).update(**{"due_at": "2020-01-01T00:00:00Z", **changes})
    if changes:
        outbox(alias).update(due_at=None)


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_a_look_at_a_backlog_takes_as_long_after_many_rounds(
    alias: str, long: bool, settings: Any, figures: Callable[..., None], temporary_receivers: None
) -> None:
    """Rows move on in the index and leave dead entries behind, which a later look must not wade through."""
    rows, rounds = (1_000_000, 1_000) if long else (20_000, 40)
    template(alias)
    multiply(alias, rows)
    analyse(alias)
    name = outbox(alias).first().receiver  # type: ignore[union-attr]
    take = Delivery.objects.using(alias).take_due
    # A few milliseconds later each is due again, at the other end of the index.
    settings.SIGNALQ = {**settings.SIGNALQ, "GRACE": 0.001}
    times = [_timed(lambda: take(name, State.QUEUED, 1_000)) for _ in range(rounds)]
    looks = [_timed(lambda: Delivery.objects.using(alias).lanes_due([name])) for _ in range(20)]
    with connections[alias].cursor() as cursor, transaction.atomic(alias):
        cursor.execute("TRUNCATE signalq_delivery")
    tenth = rounds // 10
    early, late = sorted(times[tenth : 2 * tenth]), sorted(times[-tenth:])
    figures(
        rows=rows,
        rounds=rounds,
        ms_early=early[len(early) // 2],
        ms_late=late[len(late) // 2],
        ms_of_a_look=sorted(looks)[10],
    )
    assert late[len(late) // 2] <= 3 * early[len(early) // 2] + 5


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)

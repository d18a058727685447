"""A worker, a relay or a web process is told to stop: what it holds goes back at once, and it ends in time."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from django.db.models.signals import post_save

from signalq import Created, async_receiver, execute, lease, publish, wire
from signalq.models import Delivery
from tests.faults.queues import depth
from tests.faults.versions.processes import QUICK, Project
from tests.integration.harness import Process, Proxy, wait_for
from tests.integration.outcome import all_done, states
from tests.steps import come_due, outbox
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests import services
    from tests.integration.harness import Site

pytestmark = pytest.mark.timeout(180)

ON_EACH_BROKER = pytest.mark.parametrize(
    ("alias", "broker"), [("default", "redis"), ("default", "rabbitmq")], indirect=True
)
FROZEN = pytest.mark.parametrize(
    ("alias", "broker"),
    [
        pytest.param("default", "redis", marks=pytest.mark.fault(6)),
        pytest.param("default", "rabbitmq", marks=pytest.mark.fault(7)),
    ],
    indirect=True,
)
SOON = 10
"""Seconds in which another worker does what was handed back. The lease is 20, and there is no relay to help."""


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


def began(project: Project, name: str) -> int:
    """How many deliveries were begun."""
    return len(list(project.site.scratch.glob(f"began-{name}-*")))


def kill_tree_with(process: Process, number: int) -> None:
    """A signal to the main process; its tree is known from now on."""
    process.tree()
    process.popen.send_signal(number)


def end_of(process: Process, timeout: float = 30) -> float:
    """Seconds until nothing of its tree is left."""
    seconds = wait_for(lambda: process.popen.poll() is not None, f"{process.name} to end", timeout)
    return seconds + wait_for(lambda: not process.tree(), f"the children of {process.name} to end", timeout)


def check_each_once(alias: str, count: int) -> None:
    objects = list(Effect.objects.using(alias).values_list("object_pk", flat=True))
    assert len(objects) == len(set(objects)) == count


def test_a_worker_that_is_to_stop_begins_nothing_more(
    alias: str, temporary_receivers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[wire.Item] = []
    monkeypatch.setattr(publish, "send", sent.extend)
    saw: list[int] = []

    @async_receiver(post_save, sender=Author, when=Created(), name="told")
    def told(instance: Author, **kwargs: object) -> None:
        saw.append(instance.pk)
        lease.stopping.set()

    for _ in range(3):
        Author.objects.using(alias).create(name="a")
    first, second, third = outbox(alias).values_list("pk", flat=True)
    sent.clear()
    try:
        execute.run(told, alias, [first, second])
        execute.run(told, alias, [third])
    finally:
        lease.stopping.clear()
    assert len(saw) == 1
    assert list(outbox(alias).values_list("state", "attempt")) == [("done", 1), ("queued", 0), ("queued", 0)]
    # What came alone goes back alone.
    assert sent == [wire.Wake(alias, "told", second, False), wire.Wake(alias, "told", third, True)]


@ON_EACH_BROKER
@pytest.mark.parametrize(
    "pool", [("--concurrency=2",), ("--pool=threads", "--concurrency=2"), ("--pool=solo",)], ids=lambda pool: pool[0]
)
def test_sigterm_finishes_what_is_begun_and_hands_back_the_rest_at_once(
    project: Project, alias: str, broker: str, pool: tuple[str, ...], figures: Callable[..., None]
) -> None:
    worker = project.worker("slow", *pool, relay=False, seconds=0.3)
    project.web("slow").ask("save_in_one_transaction", count=100, rolled_back=0)
    wait_for(lambda: began(project, "slow"), "a handler to begin")
    kill_tree_with(worker, signal.SIGTERM)
    begun = began(project, "slow")
    seconds = end_of(worker)
    left = states(alias)
    assert left == {"done": began(project, "slow"), "queued": 100 - began(project, "slow")}
    assert began(project, "slow") <= begun + 1, "another delivery was begun after the signal"
    assert depth(broker), "the others were not told"
    project.worker("slow", relay=False, seconds=0)
    soon = wait_for(all_done(alias, 100), lambda: f"100 deliveries to be done; {states(alias)}", SOON)
    check_each_once(alias, 100)
    assert set(Delivery.objects.using(alias).values_list("attempt", flat=True)) == {1}, "handed back is no attempt"
    figures(deliveries=100, handed_back=left["queued"], seconds_to_end=seconds, seconds_to_done=soon)


@ON_EACH_BROKER
def test_what_waits_behind_a_long_handler_is_free_before_the_handler_ends(
    project: Project, alias: str, broker: str, figures: Callable[..., None]
) -> None:
    """As `docker stop` does it: SIGTERM, some seconds, SIGKILL. Only what ran has to wait for its lease."""
    worker = project.worker("slow", relay=False, seconds=60)
    project.web("slow").ask("save_in_one_transaction", count=30, rolled_back=0)
    wait_for(lambda: began(project, "slow"), "a handler to begin")
    kill_tree_with(worker, signal.SIGTERM)
    freed = wait_for(lambda: states(alias) == {"running": 1, "queued": 29}, lambda: f"29 to be free; {states(alias)}")
    assert freed < 5, "docker stop waits for 10 s"
    project.worker("slow", seconds=0)
    soon = wait_for(lambda: states(alias).get("done") == 29, lambda: f"29 to be done; {states(alias)}", SOON / 2)
    assert worker.popen.poll() is None, "it still waits for its handler"
    worker.kill()
    come_due(alias, state="running")
    wait_for(all_done(alias, 30), lambda: f"30 deliveries to be done; {states(alias)}", SOON)
    check_each_once(alias, 30)
    figures(kills=1, deliveries=30, lost=0, doubled=0, s_until_free=freed, s_to_done=soon)


@ON_EACH_BROKER
@pytest.mark.parametrize("how", ["SIGQUIT", "SIGTERM twice", "SIGTERM then SIGQUIT", "REMAP_SIGTERM"])
def test_a_cold_shutdown_loses_nothing(
    project: Project, alias: str, how: str, long: bool, figures: Callable[..., None]
) -> None:
    project.settings(**({} if long else QUICK))
    project.web("slow").ask("save_in_one_transaction", count=20, rolled_back=0)
    worker = project.worker("slow", seconds=3, **({"REMAP_SIGTERM": "SIGQUIT"} if how == "REMAP_SIGTERM" else {}))
    wait_for(lambda: began(project, "slow"), "a handler to begin")
    kill_tree_with(worker, signal.SIGQUIT if how == "SIGQUIT" else signal.SIGTERM)
    if " " in how:
        worker.wait_for_output("Warm shutdown")
        worker.popen.send_signal(signal.SIGQUIT if how.endswith("SIGQUIT") else signal.SIGTERM)
    seconds = end_of(worker)
    left = states(alias)
    project.worker("slow", seconds=0)
    soon = wait_for(all_done(alias, 20), lambda: f"20 deliveries to be done; {states(alias)}", 60)
    check_each_once(alias, 20)
    attempts = Delivery.objects.using(alias).values_list("attempt", flat=True)
    assert sorted(attempts)[:18] == [1] * 18, "handed back is no attempt"
    figures(
        deliveries=20,
        attempts_of_the_interrupted=max(attempts),
        left_running=left.get("running", 0),
        seconds_to_end=seconds,
        seconds_to_done=soon,
    )


@ON_EACH_BROKER
def test_batches_and_what_travels_alone_are_handed_back_too(
    project: Project, alias: str, broker: str, figures: Callable[..., None]
) -> None:
    worker = project.worker("slow", relay=False, seconds=0.5)
    web = project.web("slow")
    web.ask("save_rows", model="Letter", rows=[{}] * 20)
    web.ask("save_rows", model="Tag", rows=[{"name": "t"}] * 50)
    wait_for(lambda: began(project, "alone") and began(project, "batch"), "a handler of each kind to begin")
    kill_tree_with(worker, signal.SIGTERM)
    seconds = end_of(worker)
    left = states(alias)
    assert set(left) == {"done", "queued"}
    project.worker("slow", seconds=0)
    wait_for(all_done(alias, 70), lambda: f"70 deliveries to be done; {states(alias)}", 30)
    check_each_once(alias, 70)
    figures(deliveries=70, handed_back=left["queued"], seconds_to_end=seconds)


@ON_EACH_BROKER
def test_a_soft_time_limit_is_a_failure_of_its_delivery_alone(
    project: Project, alias: str, figures: Callable[..., None]
) -> None:
    rows = [{"title": "slow" if number == 2 else "quick"} for number in range(6)]
    project.worker("slow")
    project.web("slow").ask("save_rows", model="Book", rows=rows)
    seconds = wait_for(all_done(alias, 6), lambda: f"6 deliveries to be done; {states(alias)}")
    check_each_once(alias, 6)
    deliveries = list(Delivery.objects.using(alias).order_by("pk"))
    assert [delivery.attempt for delivery in deliveries] == [1, 1, 2, 1, 1, 1]
    assert [error["type"].rpartition(".")[2] for error in deliveries[2].errors] == ["SoftTimeLimitExceeded"]
    figures(deliveries=6, limit=1, seconds_to_done=seconds)


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_an_idle_worker_ends_and_its_relay_with_it(project: Project, figures: Callable[..., None]) -> None:
    worker = project.worker("slow")
    wait_for(lambda: relays(worker), "the relay to be there")
    seconds = worker.terminate()
    assert worker.popen.returncode == 0
    figures(seconds_to_end=seconds)


def relays(worker: Process) -> list[int]:
    return [process.pid for process in worker.tree() if "relay" in process.cmdline()]


@pytest.fixture
def freeze(site: Site, broker: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Call it to freeze the broker; it is awake again after the test."""
    if broker.startswith("redis"):
        redis: services.Redis = request.getfixturevalue("redis_service")
        yield lambda: os.kill(redis.server.pid, signal.SIGSTOP)
        os.kill(redis.server.pid, signal.SIGCONT)
        return
    parts = urlsplit(broker)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5672)
    site.env["BROKER_URL"] = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
    yield proxy.freeze
    proxy.close()


@FROZEN
def test_a_relay_ends_within_two_seconds_though_the_broker_is_frozen(
    project: Project, alias: str, freeze: Callable[[], None], long: bool, figures: Callable[..., None]
) -> None:
    project.settings(GRACE=1)
    project.web("slow").ask("save_each", count=20)
    freeze()
    took = []
    for delay in (0.0, 0.3, 0.8, 1.3) if long else (0.3,):
        relay = project.relay("slow")
        relay.wait_for_output("cannot be reached")
        time.sleep(delay)  # anywhere in its next rounds
        took.append(relay.terminate(timeout=10))
        assert relay.popen.returncode == 0
    assert max(took) < 2
    figures(relays=len(took), seconds_to_end_max=max(took))


def ending(project: Project) -> float:
    """A web process that ends right after it has saved; how many seconds that took it."""
    web = project.web("slow")
    assert web.popen.stdin is not None
    web.popen.stdin.write(b'{"do": "save_in_one_transaction", "count": 20, "rolled_back": 0}\n')
    web.popen.stdin.close()
    web.answer()
    started = time.monotonic()
    assert web.popen.wait(timeout=20) == 0
    return time.monotonic() - started


@FROZEN
def test_a_web_process_that_ends_waits_a_second_at_most_for_a_frozen_broker(
    project: Project, alias: str, freeze: Callable[[], None], figures: Callable[..., None]
) -> None:
    worker = project.worker("slow", relay=False, seconds=0)
    awake = ending(project)
    wait_for(all_done(alias, 20), lambda: f"20 deliveries to be done; {states(alias)}")
    worker.kill()
    freeze()
    frozen = ending(project)
    assert states(alias) == {"done": 20, "queued": 20}
    assert frozen - awake < 1.5
    figures(seconds_awake=awake, seconds_frozen=frozen)


@ON_EACH_BROKER
def test_what_a_web_process_saves_last_is_published_before_it_ends(
    project: Project, alias: str, broker: str, figures: Callable[..., None]
) -> None:
    """No relay is there: only what the process itself has published is handled."""
    project.worker("slow", relay=False, seconds=0)
    for _ in range(5):
        ending(project)
    seconds = wait_for(all_done(alias, 100), lambda: f"100 deliveries to be done; {states(alias)}", SOON)
    check_each_once(alias, 100)
    figures(processes=5, deliveries=100, seconds_to_done=seconds)

"""The broker freezes, refuses, forgets, or says no: rows 6 to 12."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults import queues
from tests.faults.test_workers import TAKEOVER, lease
from tests.integration.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from tests.faults.own_rabbitmq import OwnRabbitMQ
    from tests.faults.run import Run
    from tests.faults.servers import Server
    from tests.integration.harness import Process

pytestmark = [pytest.mark.timeout(900)]

RATIO = 1.2
"""How much longer a save may take with the broker away."""
ROUGHLY = 2.0
"""The same where other tests run beside it: who waited for the broker would take hundreds of times as long."""


@contextlib.contextmanager
def milling(run: Run, *codes: str, rate: float = 40) -> Iterator[list[Process]]:
    """Saves go on, in a process for each of `codes`, until the block ends."""
    mills = [run.mill(code, seed=61 + number, requests=1_000_000, rate=rate) for number, code in enumerate(codes)]
    for code in codes:
        wait_for(lambda code=code: run.requests(code), "the first request")  # type: ignore[misc]
    yield mills
    run.stop(*mills)


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


@pytest.mark.fault(6)
@pytest.mark.alone
@pytest.mark.sites("default redis", "mariadb redis", "sqlite redis")
def test_redis_frozen_while_saving(run: Run, server: Server, long: bool, figures: Callable[..., None]) -> None:
    figures(**frozen_while_saving(run, server, RATIO if long else ROUGHLY))


@pytest.mark.fault(7)
@pytest.mark.alone
@pytest.mark.sites("default rabbitmq")
def test_rabbitmq_frozen_while_saving(run: Run, server: Server, long: bool, figures: Callable[..., None]) -> None:
    figures(**frozen_while_saving(run, server, RATIO if long else ROUGHLY))


def frozen_while_saving(run: Run, server: Server, most: float) -> dict[str, object]:
    """Up and frozen in turn, so that both see the same machine; the hand-written one saves in a process beside it."""
    rounds, seconds = (4, 15.0) if run.long else (2, 3.0)  # longer than any timeout of the publisher
    windows: list[tuple[float, float]] = []
    with milling(run, "ours", "control", rate=15 if run.long else 40) as (ours, _):
        for _ in range(rounds):
            time.sleep(seconds)
            begin = time.time()
            server.freeze()
            time.sleep(seconds)
            server.thaw()
            windows.append((begin, time.time()))
    up, frozen = [], []
    for begin, took, error in run.requests("ours"):
        assert not error
        (frozen if any(start <= begin < end for start, end in windows) else up).append(took)
    ratio, ratio_p99 = statistics.median(frozen) / statistics.median(up), p99(frozen) / p99(up)
    waited = max(took for _, took, _ in run.requests("control"))
    run.worker()
    converged = run.converge(meanwhile=run.supervised)
    # Without confirms, and they are no default, the hand-written one writes into a buffer and takes it for sent.
    bites = waited > seconds / 4 if run.broker.startswith("redis") else "cannot be reached" in ours.output()
    assert bites, "nobody noticed that the broker was frozen"
    assert ratio <= most
    assert not run.long or ratio_p99 <= RATIO
    return run.check(
        bites=False,
        seconds_frozen=rounds * seconds,
        ratio_of_medians=ratio,
        ratio_of_p99=ratio_p99,
        control_waited_up_to_s=waited,
        seconds_to_converge=converged,
    )


@pytest.mark.fault(8)
@pytest.mark.sites("default rabbitmq", "default redis", "mariadb redis", "sqlite redis")
def test_refused_for_minutes(run: Run, server: Server, figures: Callable[..., None]) -> None:
    seconds = 90.0 if run.long else 4.0
    run.worker()
    with milling(run, "ours", "control", rate=20):
        server.refuse()
        time.sleep(seconds)
        server.accept()
    waiting, back = run.outstanding(), time.monotonic()
    converged = run.converge(meanwhile=run.supervised)
    rate = waiting / (time.monotonic() - back)
    figures(
        **run.check(
            seconds_refused=seconds,
            seconds_to_converge=converged,
            drained_per_s=rate,
            workers_restarted=run.site.restarts,
        )
    )


@pytest.mark.fault(9)
@pytest.mark.sites("default redis", "mariadb redis", "sqlite redis")
def test_restarted_without_persistence(run: Run, server: Server, figures: Callable[..., None]) -> None:
    """Its queue is full; it comes back empty."""
    run.finish(run.mill(seed=91, requests=1_000 if run.long else 100, rate=300))
    wait_for(lambda: queues.depth(run.broker) > 50, "the queue to fill")
    server.refuse()
    server.accept()
    assert queues.depth(run.broker) == 0
    run.worker()
    converged = run.converge(meanwhile=run.supervised)
    figures(**run.check(seconds_to_converge=converged))
    assert converged < lease(run) + TAKEOVER


def flush(redis: Redis) -> bool:
    """FLUSHALL, if a message waits; whether one of the control was lost by it."""
    if not redis.llen(queues.QUEUE):
        return False
    waiting, _ = redis.pipeline().lrange(queues.QUEUE, 0, -1).flushall().execute()
    return any(b"by_hand" in message for message in waiting)


@pytest.mark.fault(10)
@pytest.mark.sites("default redis", "mariadb redis", "sqlite redis")
def test_redis_is_flushed(run: Run, server: Server, figures: Callable[..., None]) -> None:
    times = 10 if run.long else 3
    run.worker()
    with milling(run, "both", rate=30), queues.client(run.broker) as redis:
        for _ in range(times):
            wait_for(lambda: flush(redis), "a message of the control to be flushed", poll=0.001)
            run.wait_for_handler("by hand")
    converged = run.converge(meanwhile=run.supervised)
    figures(**run.check(times=times, seconds_to_converge=converged, workers_restarted=run.site.restarts))


@pytest.mark.fault(10)
@pytest.mark.only_long
@pytest.mark.sites("default redis", "default rabbitmq")
def test_emptied_while_there_is_always_more(run: Run, server: Server, figures: Callable[..., None]) -> None:
    """The saves are faster than the handlers, so that the queue does not become empty again: a probe finds the loss."""
    run.settings(GRACE=3)  # a probe is sent after it, and another passes until what it tells is acted on
    # Sleep sets the pace of the handlers, not the machine: else the queue before the probe may have any length.
    run.site.env["SIGNALQ_FAULTS_HANDLER_SECONDS"] = "0.1"
    run.worker()
    with milling(run, "ours", rate=12):
        wait_for(lambda: queues.depth(run.broker) > 30, "the queue to fill")
        queues.purge(run.broker)
        lost = set(run.waiting())
        seconds = wait_for(lambda: not lost & set(run.waiting()), "what was lost to be handled", timeout=400)
        assert queues.depth(run.broker) > 0
    converged = run.converge()
    figures(**run.check(False, purged=len(lost), seconds_to_all_of_it=seconds, seconds_to_converge=converged))


@pytest.mark.fault(10)
@pytest.mark.sites("default redis", "mariadb redis", "sqlite redis")
def test_redis_is_full(run: Run, server: Server, figures: Callable[..., None]) -> None:
    """It takes nothing more: `maxmemory` is reached, and its policy is noeviction, as brokers have it."""
    times = 5 if run.long else 2
    run.worker()
    with milling(run, "ours", "control", rate=30), queues.client(run.broker) as redis:
        for _ in range(times):
            redis.config_set("maxmemory", "1")
            sent = len(run.requests("control")), len(run.requests("ours"))
            wait_for(lambda sent=sent: len(run.requests("control")) > sent[0], "the control to give up")  # type: ignore[misc]
            wait_for(lambda sent=sent: len(run.requests("ours")) > sent[1] + 10, "saves")  # type: ignore[misc]
            redis.config_set("maxmemory", "0")
            run.wait_for_handler("by hand", meanwhile=run.supervised)
    converged = run.converge(meanwhile=run.supervised)
    figures(**run.check(times=times, seconds_to_converge=converged, workers_restarted=run.site.restarts))


@pytest.mark.fault(11)
@pytest.mark.only_long
@pytest.mark.sites("default rabbitmq", "mariadb rabbitmq", "sqlite rabbitmq")
def test_the_memory_alarm(run: Run, server: Server, own_rabbitmq: OwnRabbitMQ, figures: Callable[..., None]) -> None:
    """Without confirms a message sent meanwhile counts as sent, and may go down with its process: until one has."""
    requests = 300  # few of them lie in the buffers of sockets, and arrive
    run.worker()
    run.finish(run.mill(seed=110, requests=5))
    for alarms in range(1, 6):
        own_rabbitmq.memory_limit(0)
        mill = run.mill(seed=110 + alarms, requests=requests)
        wait_for(lambda wanted=5 + alarms * requests: len(run.requests("both")) == wanted, "the saves")  # type: ignore[misc]
        mill.kill()
        run.kills += 1
        own_rabbitmq.memory_limit(0.4)
        converged = run.converge(meanwhile=run.supervised)
        if run.control_lost():
            break
    figures(**run.check(alarms=alarms, seconds_to_converge=converged))


@pytest.mark.fault(12)
@pytest.mark.sites("default rabbitmq", "default redis")
@pytest.mark.parametrize("worker", ["later", "running"])
def test_the_queue_is_deleted(run: Run, server: Server, worker: str, figures: Callable[..., None]) -> None:
    """With what is in it. A worker makes it again when it starts, or when RabbitMQ tells it that its queue is gone.

    Told so just while it comes back from the last time, Celery may stay deaf.
    """
    times = 20 if run.long else 4
    if worker == "running":
        run.worker()
    with milling(run, "both", rate=40):
        for _ in range(times):
            time.sleep(0.3)
            server.delete_queue()
    converged = run.converge(meanwhile=run.checked)
    restarts = run.site.restarts
    # A queue that a worker keeps empty holds little to lose.
    figures(
        **run.check(
            worker == "later", times=times, worker=worker, seconds_to_converge=converged, workers_restarted=restarts
        )
    )

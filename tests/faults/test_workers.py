"""Workers and relays die: rows 3, 4, 5 and 13."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
from django.db.models import Count, Sum

from signalq.models import Delivery
from tests.integration.harness import wait_for
from tests.testapp.models import Intent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run

pytestmark = [pytest.mark.timeout(600)]

TAKEOVER = 15
"""Seconds beyond the lease until a new worker has done what a dead one had in hand."""


def lease(run: Run) -> float:
    return 20 if run.long else 3


def attempts_running(run: Run) -> set[tuple[int, int]]:
    """(id, attempt) of what a worker holds, or held when it died."""
    return set(Delivery.objects.using(run.alias).filter(state="running").values_list("pk", "attempt"))


@pytest.mark.fault(3)
@pytest.mark.sites("default rabbitmq", "default redis", "mariadb redis", "sqlite redis")
def test_the_whole_worker_again_and_again(run: Run, figures: Callable[..., None]) -> None:
    choose = random.Random(31)
    kills = 12 if run.long else 3
    run.site.env["SIGNALQ_FAULTS_HANDLER_SECONDS"] = "0.04"
    mill = run.mill(seed=31, requests=100_000, rate=8)
    while run.kills < kills or not run.bitten():
        worker = run.worker()
        for _ in range(choose.randint(1, 20)):
            run.wait_for_handler("by hand")
        time.sleep(choose.uniform(0, 0.04))
        worker.kill()
        run.kills += 1
    in_hand = attempts_running(run)
    run.stop(mill)
    run.worker()
    free = "what the dead one had in hand to be free"
    seconds = wait_for(lambda: not in_hand & attempts_running(run), free, lease(run) + TAKEOVER)
    converged = run.converge()
    figures(**run.check(seed=31, seconds_until_free=seconds, seconds_to_converge=converged))


@pytest.mark.fault(3)
@pytest.mark.sites("default redis")
def test_the_main_process_of_the_worker_alone(run: Run, figures: Callable[..., None]) -> None:
    """Neither a child in the middle of its handler nor the relay outlives it for long."""
    run.site.env["SIGNALQ_FAULTS_HANDLER_SECONDS"] = "2"
    worker = run.worker()
    run.finish(run.mill("ours", seed=32, requests=5))
    run.wait_for_handler("first")
    children = len(worker.tree()) - 1
    worker.popen.kill()
    worker.popen.wait()
    seconds = wait_for(lambda: not worker.tree(), "its children and its relay to end with it", 30)
    figures(children=children, seconds_until_they_ended=seconds)


@pytest.mark.fault(4)
def test_a_worker_s_child_in_the_middle_of_a_handler(run: Run, figures: Callable[..., None]) -> None:
    """Half of a handler lies before its writes and half after them, and the kills fall into both."""
    choose = random.Random(41)
    kills = 20 if run.long else 4
    run.site.env["SIGNALQ_FAULTS_HANDLER_SECONDS"] = "0.1"
    run.worker()
    mill = run.mill("ours", seed=41, requests=100_000, rate=4)
    for _ in range(kills):
        child = run.wait_for_handler("first")
        time.sleep(choose.uniform(0, 0.1))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
            run.kills += 1
    run.stop(mill)
    seconds = run.converge()
    deliveries = list(Delivery.objects.using(run.alias).values_list("attempt", "lost_leases"))
    assert all(attempt == lost + 1 for attempt, lost in deliveries), deliveries
    lost = sum(lost for _, lost in deliveries)
    assert lost, "no kill met a handler"
    figures(**run.check(bites=False, seed=41, lost_leases=lost, seconds_to_converge=seconds))


@pytest.mark.fault(5)
def test_a_handler_that_always_kills_its_process(run: Run, figures: Callable[..., None]) -> None:
    run.worker()
    run.finish(run.mill("ours", seed=51, poison=1, requests=40))
    poisoned = Intent.objects.using(run.alias).get(name__endswith="poison")
    seconds = run.converge()
    dead = Delivery.objects.using(run.alias).get(receiver__endswith="first", object_pk=str(poisoned.pk))
    assert (dead.state, dead.lost_leases) == ("dead", 3)
    assert dead.errors[-1]["type"] == "LeaseLost"
    others = Delivery.objects.using(run.alias).exclude(pk=dead.pk)
    assert set(others.values_list("state", flat=True)) == {"done"}
    run.kills += dead.attempt
    figures(**run.check(bites=False, seed=51, seconds_to_converge=seconds, neighbours_lost_leases=_lost(run) - 3))


def _lost(run: Run) -> int:
    return sum(Delivery.objects.using(run.alias).values_list("lost_leases", flat=True))


@pytest.mark.fault(13)
@pytest.mark.sites("default redis", "default rabbitmq", "mariadb redis", "sqlite redis")
def test_the_relay_at_random(run: Run, figures: Callable[..., None]) -> None:
    """The savers publish nothing, so that all of it goes through relays that are killed one after the other."""
    choose = random.Random(131)
    kills = 15 if run.long else 3
    run.settings(PUBLISH=False)
    mill = run.mill("ours", seed=131, requests=100_000, rate=60)
    run.settings(RELAY=False, GRACE=0.3, LEASE=3)
    run.worker()
    for _ in range(kills):
        relay = run.relay()
        run.wait_for_handler("first")
        time.sleep(choose.uniform(0, 1.5))
        relay.kill()
        run.kills += 1
    run.stop(mill)
    run.relay()
    seconds = run.converge()
    again = Delivery.objects.using(run.alias).filter(repeats__gt=1).aggregate(sum=Sum("repeats") - Count("pk"))["sum"]
    assert (again or 0) <= 1_000 * kills
    figures(**run.check(bites=False, seed=131, published_again=again or 0, seconds_to_converge=seconds))

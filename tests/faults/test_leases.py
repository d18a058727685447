"""Leases: workers that freeze, handlers that last longer, and clocks that are hours apart. Row 3's quieter cousins."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from signalq.models import Delivery
from tests.integration.harness import wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once, states
from tests.steps import outbox
from tests.testapp.models import Effect, Letter

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.harness import Process, Site

EACH = pytest.mark.parametrize(
    ("alias", "broker"), [("default", "redis"), ("default", "rabbitmq"), ("mariadb", "redis")], indirect=True
)
pytestmark = [pytest.mark.timeout(240)]

SKEWED = Path(__file__).parent / "skewed"
"""Put before a process's import path, its sitecustomize shifts the clock by SIGNALQ_FAULTS_HOURS."""


@pytest.fixture
def lease(site: Site, long: bool) -> float:
    site.env["DJANGO_SETTINGS_MODULE"] = "tests.faults.backlog_settings"
    site.env["SIGNALQ_FAULTS_SETTINGS"] = "{}" if long else '{"LEASE": 2, "GRACE": 1}'
    return 20 if long else 2


def send(worker: Process, number: signal.Signals) -> None:
    for process in worker.tree():
        os.kill(process.pid, number)


@pytest.mark.fault(3)
@EACH
def test_a_worker_that_was_frozen_beyond_its_lease_changes_nothing(
    site: Site, alias: str, lease: float, figures: Callable[..., None]
) -> None:
    """Another has done the work; what the thawed one wrote is rolled back."""
    frozen = site.worker()
    site.saver().ask("save_held", count=4)
    wait_for(site.held, "a handler to be in the middle")
    held = site.held()
    send(frozen, signal.SIGSTOP)
    # Where the frozen one holds a transaction open, nothing of what it wrote may be in another's way.
    site.release()
    site.worker()
    seconds = wait_for(all_done(alias, 4), lambda: f"4 to be done; {states(alias)}", lease * 2 + 40)
    send(frozen, signal.SIGCONT)
    wait_for(lambda: frozen.output().count("lost its lease") == held, "it to notice", 30)
    letters = sorted(str(pk) for pk in Letter.objects.using(alias).values_list("pk", flat=True))
    assert sorted(Effect.objects.using(alias).values_list("object_pk", flat=True)) == letters
    assert states(alias) == {"done": 4}
    figures(frozen_handlers=held, seconds_to_done=seconds, deliveries=4, doubled=0)


@EACH
def test_a_handler_that_lasts_longer_than_its_lease_keeps_it(
    site: Site, alias: str, lease: float, figures: Callable[..., None]
) -> None:
    site.worker()
    site.saver().ask("save_held", count=1)
    wait_for(site.held, "the handler to be in the middle")
    lasting = 2.5 * lease
    time.sleep(lasting)  # the handler's own time, in which nothing is to happen
    assert states(alias) == {"running": 1}
    site.release()
    wait_for(all_done(alias, 1), lambda: f"1 to be done; {states(alias)}")
    delivery = outbox(alias).get()
    assert (delivery.attempt, delivery.lost_leases, site.held()) == (1, 0, 1)
    figures(leases_long=lasting / lease, attempts=delivery.attempt)


@pytest.mark.parametrize(("alias", "broker"), [("default", "redis"), ("mariadb", "redis")], indirect=True)
def test_clocks_that_are_hours_apart_change_nothing(
    site: Site, alias: str, broker: str, lease: float, figures: Callable[..., None]
) -> None:
    """Those of the web process and of the workers, each with its relay: the database's alone counts."""
    saver = site.saver(**_skewed(-5))
    ahead, behind = site.worker(**_skewed(+7)), site.worker(**_skewed(-3))
    saver.ask("save_in_one_transaction", count=30, rolled_back=5)
    seconds = wait_for(all_done(alias, 90), lambda: f"90 to be done; {states(alias)}", 60)
    check_each_author_has_each_effect_once(alias)
    assert set(outbox(alias).values_list("attempt", flat=True)) == {1}
    # A lease is the database's, too: one worker dies in its handler, and the relay of the other takes over.
    saver.ask("save_held", count=1)
    wait_for(site.held, "the handler to be in the middle")
    holder = next(iter(site.scratch.glob("held-*"))).name.split("-")[1]
    dead = ahead if int(holder) in {process.pid for process in ahead.tree()} else behind
    assert psutil.pid_exists(int(holder))
    dead.kill()
    killed = time.monotonic()
    site.release()
    wait_for(all_done(alias, 91), lambda: f"91 to be done; {states(alias)}", lease + 40)
    taken_over = time.monotonic() - killed
    assert taken_over >= lease / 2, "taken over before the lease had ended"
    newest = Delivery.objects.using(alias).latest("pk")
    assert (newest.attempt, newest.lost_leases) == (2, 1)
    figures(hours_apart=12, seconds_to_done=seconds, seconds_to_take_over=taken_over)


def _skewed(hours: float) -> dict[str, str]:
    return {"PYTHONPATH": str(SKEWED), "SIGNALQ_FAULTS_HOURS": str(hours)}

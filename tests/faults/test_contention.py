"""Handlers of many deliveries update the same few rows: row 29."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest
from django.db import connections

from signalq.models import Delivery
from tests.faults.stock.names import ROWS, names
from tests.integration.harness import ROOT, wait_for
from tests.integration.outcome import states
from tests.testapp.models import Author, Effect, Intent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run
    from tests.integration.harness import Process

RATIO = 0.8
"""Of the rate of the same handlers sent one by one."""


def seconds_for(run: Run, name: str, count: int, workers: list[Process]) -> float:
    """Record with the workers held still, then let them go: seconds until all of it is done."""
    before = Effect.objects.using(run.alias).filter(receiver=name).count()
    for process in (process for worker in workers for process in worker.tree()):
        process.suspend()
    command = [sys.executable, "-m", "tests.faults.stock.saver", name, str(count)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **run.site.env}, check=True, timeout=120)
    for process in (process for worker in workers for process in worker.tree()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()

    def handled() -> int:
        return Effect.objects.using(run.alias).filter(receiver=name).count() - before

    return wait_for(
        lambda: handled() >= count, lambda: f"{count} of {name}: {handled()}; {states(run.alias)}", 120, 0.01
    )


def deadlocks(alias: str) -> int:
    """How many the server has seen."""
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            return int(cursor.fetchone()[0])
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        return int(cursor.fetchone()[1])


def check_counters(alias: str, name: str, each: int) -> None:
    intents = Intent.objects.using(alias).filter(name=name)
    expected = Counter(counter for intent in intents for counter in names(intent, each))
    found = dict(Author.objects.using(alias).filter(name__startswith=f"{name} ").values_list("name", "counter"))
    assert {key: value for key, value in found.items() if value} == dict(expected)


@pytest.mark.fault(29)
@pytest.mark.alone
@pytest.mark.sites("default redis", "default rabbitmq", "mariadb redis", "mariadb rabbitmq")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("each", [1, 2])
def test_many_handlers_on_few_rows(run: Run, each: int, figures: Callable[..., None]) -> None:
    """Two workers of two children; in turn with a task for each by hand. Every setting at its default.

    With two rows in any order there are deadlocks, and PostgreSQL notices one after a second: chance decides the rate.
    """
    run.site.env["SIGNALQ_FAULTS_ROWS_EACH"] = str(each)
    run.site.env["DJANGO_SETTINGS_MODULE"] = "tests.faults.stock.settings"
    kinds = ["ours", "control"]
    Author.objects.using(run.alias).bulk_create(Author(name=f"{name} {row}") for name in kinds for row in range(ROWS))
    workers = [run.worker(), run.worker()]
    count, rounds = 600, 3
    for name in kinds:
        seconds_for(run, name, 50, workers)  # connections, imports
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    before = deadlocks(run.alias)
    for number in range(rounds):
        for name in kinds if number % 2 else kinds[::-1]:
            seconds[name].append(seconds_for(run, name, count, workers))
    wait_for(lambda: set(states(run.alias)) == {"done"}, lambda: f"all to be settled: {states(run.alias)}")
    time.sleep(1)  # the server's statistics come late
    rates = {name: count / statistics.median(seconds[name]) for name in kinds}
    met = deadlocks(run.alias) - before
    attempts = Counter(Delivery.objects.using(run.alias).values_list("attempt", flat=True))
    for name in kinds:
        check_counters(run.alias, name, each)
    ratio = rates["ours"] / rates["control"]
    effects = Effect.objects.using(run.alias).filter(receiver="ours")
    figures(
        rows_each=each,
        deliveries=sum(attempts.values()),
        lost=sum(attempts.values()) - effects.values("object_pk").distinct().count(),
        doubled=effects.count() - effects.values("object_pk").distinct().count(),
        rate=rates["ours"],
        rate_by_hand=rates["control"],
        ratio=ratio,
        deadlocks_of_both=met,
    )
    assert set(attempts) == {1}, f"a deadlock has counted as an attempt: {attempts}"
    assert each > 1 or ratio >= RATIO

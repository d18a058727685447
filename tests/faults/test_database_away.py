"""The database breaks off, restarts, or has no room left: rows 15, 16 and 17."""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from django.db import OperationalError, connections, transaction
from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.faults.own_postgres import ALIAS, MODES, OwnPostgres, terminate_all
from tests.integration.harness import is_alive, wait_for
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.run import Run
    from tests.integration.harness import Process

pytestmark = [pytest.mark.timeout(400)]

BACK = 5.0
"""Seconds from the last blow until handlers run again, at the most."""
CHILDREN = 2
"""Of a worker: so many handlers may be under way."""


def lives(worker: Process) -> dict[int, psutil.Process]:
    """The worker, its children and its relay, by their numbers."""
    wait_for(lambda: len(worker.tree()) >= 4, "the worker to have two children and a relay")
    return {process.pid: process for process in worker.tree()}


def until_handled(run: Run, since: float) -> float:
    """Seconds from `since`, a time of time.time(), until a handler has run that began later."""

    def handled() -> bool:
        latest = Effect.objects.using(run.alias).filter(receiver__in=["first", "second"]).order_by("-pk").first()
        return latest is not None and float(latest.note) > since

    wait_for(handled, "a handler to run again", timeout=60, poll=0.01)
    return time.time() - since


def check_all_live(before: dict[int, psutil.Process]) -> None:
    dead = [process.pid for process in before.values() if not is_alive(process)]
    assert not dead, f"{len(dead)} processes of the worker have ended"


def strike(run: Run, blow: Callable[[int], object], least: int, seed: int) -> tuple[list[float], dict[str, object]]:
    """One blow after the other, each in the middle of a handler of the control: at least so many, and until it has
    met a request and the control. The seconds until a handler ran after each, and the figures of the run."""
    run.site.env["SIGNALQ_FAULTS_HANDLER_SECONDS"] = "0.05"
    processes = lives(run.worker())
    mill = run.mill(seed=seed, requests=100_000, rate=8)
    seconds: list[float] = []
    while len(seconds) < least or not (requests_failed(run) and run.bitten(at_once=CHILDREN)):
        run.wait_for_handler("by hand")
        blow(len(seconds))
        seconds.append(until_handled(run, time.time()))
    run.stop(mill)
    converged = run.converge()
    check_all_live(processes)
    failed = requests_failed(run)
    return seconds, run.check(seed=seed, requests_failed=failed, seconds_to_converge=converged)


def requests_failed(run: Run, code: str = "both") -> int:
    return sum(bool(error) for *_, error in run.requests(code))


@pytest.mark.fault(15)
@pytest.mark.sites("default redis", "default rabbitmq", "mariadb redis")
def test_every_connection_terminated_again_and_again(run: Run, figures: Callable[..., None]) -> None:
    terminated = 0

    def blow(number: int) -> None:
        nonlocal terminated
        terminated += terminate_all(run.alias)

    seconds, found = strike(run, blow, 60 if run.long else 6, seed=151)
    back = {"reconnect_p50_s": statistics.median(seconds), "reconnect_max_s": max(seconds)}
    figures(**found, blows=len(seconds), connections_terminated=terminated, **back)
    assert max(seconds) < BACK


@pytest.fixture
def own_postgres(run: Run) -> Iterator[OwnPostgres]:
    """A server of the test's own under the processes of `run`."""
    directory = Path(tempfile.mkdtemp(prefix="signalq-pg-"))
    server = OwnPostgres(directory)
    try:
        server.prepare(run.site.env)
        run.alias = ALIAS
        yield server
        run.site.close()
        server.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.fault(16)
@pytest.mark.sites("default redis", "default rabbitmq")
def test_the_server_restarted(run: Run, own_postgres: OwnPostgres, figures: Callable[..., None]) -> None:
    away = random.Random(161)

    def blow(number: int) -> None:
        own_postgres.restart(list(MODES)[number % len(MODES)], away.uniform(0, 2))

    seconds, found = strike(run, blow, len(MODES) * (5 if run.long else 1), seed=161)
    back = {"back_p50_s": statistics.median(seconds), "back_max_s": max(seconds)}
    figures(**found, restarts=len(seconds), **back)


@pytest.mark.fault(17)
@pytest.mark.sites("default redis")
def test_no_room_for_the_outbox(run: Run, own_postgres: OwnPostgres, figures: Callable[..., None]) -> None:
    """Saves fail whole, claims and the relay's looks fail too; with room again all goes on by itself."""
    worker = run.worker()
    processes = lives(worker)
    mill = run.mill("ours", seed=171, requests=100_000, rate=30)
    until_handled(run, time.time())
    own_postgres.fill()
    wait_for(lambda: requests_failed(run, "ours") >= (300 if run.long else 30), "saves to fail", timeout=120)
    failed = requests_failed(run, "ours")
    own_postgres.free()
    seconds = until_handled(run, time.time())
    run.stop(mill)
    converged = run.converge()
    figures(**run.check(bites=False, seed=171, requests_failed=failed, back_s=seconds, seconds_to_converge=converged))
    check_all_live(processes)
    told = sum("Database 'default': " in line for line in worker.output().splitlines())
    # Once, and not in each round; and again when room has come in between, as PostgreSQL tidies up.
    assert told <= 5, f"the relay has said {told} times that the database fails"


@pytest.mark.fault(17)
@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("temporary_receivers")
def test_no_room_in_the_file_of_sqlite(alias: str, figures: Callable[..., None]) -> None:
    """SQLITE_FULL, the same everywhere: the save fails with its delivery, and what is queued stays so."""

    @async_receiver(post_save, sender=Author, when=Created(), name="full")
    def handler(sender: type[Author], instance: Author, **kwargs: object) -> None:
        Effect.objects.using(alias).create(receiver="full", object_pk=str(instance.pk))

    def save() -> None:
        with transaction.atomic(alias):
            Author.objects.using(alias).create(name="x" * 100, email=f"{'x' * 200}@example.org")

    def room(pages: int) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"PRAGMA max_page_count = {pages}")

    save()
    room(1)  # as many as there are: what it has it keeps
    saved = 1
    try:
        with pytest.raises(OperationalError, match="full"):
            while True:  # until the pages that are half empty are full, too
                save()
                saved += 1
    finally:
        room(2**30)
    kept = Author.objects.using(alias).count()
    assert kept == saved == outbox(alias).count(), "a save without its delivery, or the other way round"
    save()
    work(alias)
    assert {(state, attempt) for _, state, attempt in states(alias)} == {("done", 1)}
    assert Effect.objects.using(alias).filter(receiver="full").count() == saved + 1
    figures(deliveries=saved + 1, saves_until_full=saved)

"""Old and new code side by side, in both orders: what one of them does not know waits for the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from django.db.models.functions import Now

from signalq.models import Delivery
from tests.faults.versions.processes import QUICK, Project
from tests.integration.harness import wait_for
from tests.steps import come_due
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.harness import Process, Site

pytestmark = pytest.mark.timeout(300)

ON_EACH_BROKER = pytest.mark.parametrize(
    ("alias", "broker"), [("default", "redis"), ("default", "rabbitmq")], indirect=True
)
ON_ONE = pytest.mark.parametrize(("alias", "broker"), [("default", "redis")], indirect=True)
SAVES = 20
UNKNOWN = "Received unregistered task"


@pytest.fixture
def project(site: Site, long: bool) -> Project:
    project = Project(site)
    project.settings(**({} if long else QUICK))
    return project


def of(alias: str, receiver: str) -> dict[str, int]:
    """How many deliveries of `receiver` are where."""
    counts: dict[str, int] = {}
    for state in Delivery.objects.using(alias).filter(receiver=receiver).values_list("state", flat=True):
        counts[state] = counts.get(state, 0) + 1
    return counts


def wait_for_done(alias: str, receiver: str, count: int, timeout: float = 120) -> float:
    return wait_for(
        lambda: of(alias, receiver) == {"done": count}, lambda: f"{receiver}: {of(alias, receiver)}", timeout
    )


def check_each_has(alias: str, *effects: str) -> None:
    """Each author has each effect, and once."""
    authors = [str(pk) for pk in Author.objects.using(alias).values_list("pk", flat=True)]
    found = sorted(Effect.objects.using(alias).values_list("receiver", "object_pk"))
    assert found == sorted((effect, pk) for effect in effects for pk in authors)


def eaten(worker: Process) -> int:
    """Messages that this worker took and could make nothing of."""
    return worker.output().count(UNKNOWN)


@pytest.mark.parametrize(
    ("alias", "broker"), [("default", "redis"), ("sqlite", "redis"), ("default", "rabbitmq")], indirect=True
)
@pytest.mark.fault(19)
def test_what_the_old_worker_does_not_know_is_parked_until_the_new_one_is_there(
    project: Project, alias: str, figures: Callable[..., None]
) -> None:
    old = project.worker("old")
    project.web("added").ask("save_rows", model="Author", rows=[{"name": "Lovelace"}] * SAVES)
    wait_for_done(alias, "greet", SAVES)
    wait_for(lambda: eaten(old), "the old worker to take what it does not know")
    assert "Lovelace" not in old.output()
    wait_for(lambda: overdue(alias, "bill") == SAVES, "them to come due")
    parked = Delivery.objects.using(alias).filter(receiver="bill").values_list("pk", "state", "attempt", "due_at")
    before = set(parked)
    assert project.manage("old", "signalq", "relay", "--once").returncode == 0
    assert set(parked.all()) == before, "its relay does not touch them"
    old.terminate()
    new = project.worker("added")
    seconds = wait_for_done(alias, "bill", SAVES)
    check_each_has(alias, "greet", "bill")
    assert not eaten(new)
    figures(deliveries=2 * SAVES, lost=0, doubled=0, messages_eaten=eaten(old), s_to_done=seconds)


def overdue(alias: str, receiver: str) -> int:
    return Delivery.objects.using(alias).filter(receiver=receiver, due_at__lt=Now()).count()


@ON_EACH_BROKER
@pytest.mark.fault(19)
def test_an_old_web_process_is_served_by_a_worker_where_the_receiver_has_another_name(
    project: Project, alias: str, figures: Callable[..., None]
) -> None:
    new = project.worker("renamed")
    project.web("old").ask("save_each", count=SAVES)
    seconds = wait_for_done(alias, "greet", SAVES, timeout=10)
    check_each_has(alias, "welcome")
    assert not eaten(new)
    figures(deliveries=SAVES, lost=0, doubled=0, s_to_done=seconds)


@ON_EACH_BROKER
@pytest.mark.fault(19)
def test_a_new_web_process_and_an_old_worker_where_the_receiver_has_another_name(
    project: Project, alias: str, figures: Callable[..., None]
) -> None:
    """What was recorded under the old name goes on; what is recorded under the new one waits."""
    old = project.worker("old")
    project.web("old").ask("save_each", count=SAVES)
    project.web("renamed").ask("save_each", count=SAVES)
    wait_for_done(alias, "greet", SAVES)
    wait_for(lambda: eaten(old), "the old worker to take what it does not know")
    assert of(alias, "welcome") == {"queued": SAVES}
    old.terminate()
    project.worker("renamed")
    seconds = wait_for_done(alias, "welcome", SAVES)
    effects = Effect.objects.using(alias).values_list("receiver", "object_pk")
    assert len(effects) == len({pk for _, pk in effects}) == 2 * SAVES
    figures(deliveries=2 * SAVES, lost=0, doubled=0, messages_eaten=eaten(old), s_to_done=seconds)


@ON_EACH_BROKER
@pytest.mark.fault(19)
@pytest.mark.parametrize("version", ["added", "renamed"])
def test_a_rolling_deploy(project: Project, alias: str, version: str, long: bool, figures: Callable[..., None]) -> None:
    """Old and new web processes and workers on one queue. It converges before the old ones are gone."""
    old, new = project.worker("old"), project.worker(version)
    webs = project.web("old"), project.web(version)
    saves = 100 if long else 30
    for _ in range(saves):
        for web in webs:
            web.ask("save_each", count=1)
    saved = time.monotonic()
    mine = "bill" if version == "added" else "welcome"
    wait_for_done(alias, "greet", 2 * saves if version == "added" else saves)
    wait_for_done(alias, mine, saves)
    seconds = time.monotonic() - saved
    effects = list(Effect.objects.using(alias).values_list("receiver", "object_pk"))
    assert len(effects) == len(set(effects)) == (3 if version == "added" else 2) * saves
    assert eaten(old), "the old worker had no part in it"
    assert not eaten(new)
    figures(deliveries=len(effects), lost=0, doubled=0, messages_eaten=eaten(old), s_to_converge=seconds)


@ON_ONE
@pytest.mark.fault(19)
def test_an_event_that_a_newer_signalq_wrote_waits_for_a_newer_worker(
    project: Project, alias: str, figures: Callable[..., None]
) -> None:
    old = project.worker("old")
    project.web("upgraded").ask("save_each", count=SAVES)
    wait_for(lambda: of(alias, "greet") == {"waiting": SAVES}, lambda: f"all to be parked: {of(alias, 'greet')}")
    types = {delivery.errors[-1]["type"] for delivery in Delivery.objects.using(alias)}
    assert types == {"signalq.exceptions.NewerVersion"}
    project.web("old").ask("save_each", count=SAVES)
    wait_for(lambda: of(alias, "greet").get("done") == SAVES, "its own events to be handled meanwhile")
    old.terminate()
    project.worker("upgraded")
    come_due(alias, state="waiting")
    seconds = wait_for_done(alias, "greet", 2 * SAVES)
    check_each_has(alias, "greet")
    figures(deliveries=2 * SAVES, lost=0, doubled=0, s_to_done=seconds)


@ON_ONE
@pytest.mark.fault(19)
def test_a_receiver_that_is_gone_is_reported_and_can_be_discarded(
    project: Project, alias: str, figures: Callable[..., None]
) -> None:
    worker = project.worker("removed")
    project.web("old").ask("save_each", count=SAVES)
    wait_for(lambda: eaten(worker), "the worker to take what it does not know")
    status = project.manage("removed", "signalq", "status")
    assert status.returncode == 1
    assert f"{SAVES} deliveries are parked for a receiver unknown here: greet." in status.stderr
    assert "aliases=['greet']" in status.stderr
    assert "manage.py signalq discard --receiver greet." in status.stderr

    looked = project.manage("removed", "signalq", "discard", "--receiver", "greet")
    assert looked.returncode == 0
    assert f"{SAVES} deliveries on 'default' would be discarded." in looked.stdout
    assert of(alias, "greet") == {"queued": SAVES}
    done = project.manage("removed", "signalq", "discard", "--receiver", "greet", "--yes", "--reason", "it is gone")
    assert f"{SAVES} deliveries are discarded." in done.stdout
    assert of(alias, "greet") == {"discarded": SAVES}
    assert project.manage("removed", "signalq", "status").returncode == 0

    # Somebody thinks better of it.
    worker.terminate()
    project.worker("renamed")
    again = project.manage("renamed", "signalq", "replay", "--receiver", "greet", "--discarded")
    assert f"{SAVES} deliveries are queued again." in again.stdout
    seconds = wait_for_done(alias, "greet", SAVES)
    check_each_has(alias, "welcome")
    figures(deliveries=SAVES, lost=0, doubled=0, s_to_done=seconds)

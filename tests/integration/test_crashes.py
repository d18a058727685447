"""What dies at the worst moment, with every setting at its default: all is done within 30 seconds, and once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once, states
from tests.testapp.models import Author, Effect, Letter

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services
    from tests.integration.harness import Site

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(180)]

EACH_DATABASE = pytest.mark.parametrize(("alias", "broker"), [("default", "redis"), ("sqlite", "redis")], indirect=True)
EACH_KIND = pytest.mark.parametrize(
    ("alias", "broker"), [("default", "redis"), ("sqlite", "redis"), ("default", "rabbitmq")], indirect=True
)

LIMIT = 30
"""Seconds from the crash until everything is done."""


@EACH_KIND
def test_the_saving_process_right_after_the_commit(site: Site, alias: str, figures: Callable[..., None]) -> None:
    site.worker()
    for _ in range(3):
        site.saver().ask_to_die("save_and_die", count=20)
    assert Author.objects.using(alias).count() == 60
    seconds = wait_for(all_done(alias, 180), lambda: f"180 deliveries to be done; {states(alias)}", LIMIT)
    check_each_author_has_each_effect_once(alias)
    figures(kills=3, deliveries=180, seconds_to_done=seconds)


@EACH_DATABASE
def test_the_worker_in_the_middle_of_a_handler(site: Site, alias: str, figures: Callable[..., None]) -> None:
    worker = site.worker()
    site.saver().ask("save_held", count=40)
    wait_for(site.held, "a handler to be in the middle")
    held = site.held()
    worker.kill()
    killed = time.monotonic()
    site.release()
    assert not Effect.objects.using(alias).exists()
    site.worker()
    wait_for(
        all_done(alias, 40), lambda: f"40 deliveries to be done; {states(alias)}", killed + LIMIT - time.monotonic()
    )
    seconds = time.monotonic() - killed
    letters = sorted(str(pk) for pk in Letter.objects.using(alias).values_list("pk", flat=True))
    assert sorted(Effect.objects.using(alias).values_list("object_pk", flat=True)) == letters
    figures(handlers_killed=held, deliveries=40, seconds_to_done=seconds)


@pytest.mark.parametrize(("alias", "broker"), [("default", "redis")], indirect=True)
def test_the_main_process_of_the_worker_alone(site: Site, figures: Callable[..., None]) -> None:
    """Neither a child in the middle of its handler nor the relay outlives it for long."""
    worker = site.worker()
    site.saver().ask("save_held", count=10)
    wait_for(site.held, "a handler to be in the middle")
    children = len(worker.tree()) - 1
    worker.popen.kill()
    worker.popen.wait()
    site.release()
    seconds = wait_for(lambda: not worker.tree(), "its children and its relay to end with it", LIMIT)
    figures(children=children, seconds_until_they_ended=seconds)


@EACH_KIND
def test_the_broker_with_everything_in_it(
    site: Site, alias: str, broker: str, request: pytest.FixtureRequest, figures: Callable[..., None]
) -> None:
    """Its queue full, a worker at work; it comes back empty.

    The worker has a supervisor, as workers have: Celery 5.7 ends with "Unrecoverable error" when Redis refuses a
    connection while messages are unacknowledged.
    """
    site.saver().ask("save_in_one_transaction", count=300, rolled_back=0)
    worker = site.worker()
    wait_for(lambda: states(alias).get("done", 0) > 20, "the worker to be in the middle of it")
    done = states(alias)["done"]
    empty_the_broker(request, broker)

    def finished() -> bool:
        nonlocal worker
        worker = site.supervised(worker)
        return all_done(alias, 900)()

    seconds = wait_for(finished, lambda: f"900 deliveries to be done; {states(alias)}", LIMIT)
    check_each_author_has_each_effect_once(alias)
    figures(done_before=done, deliveries=900, workers_restarted=site.restarts, seconds_to_done=seconds)


def empty_the_broker(request: pytest.FixtureRequest, broker: str) -> None:
    if broker.startswith("amqp"):
        rabbitmq: services.RabbitMQ = request.getfixturevalue("rabbitmq_service")
        rabbitmq.purge()
        return
    redis: services.Redis = request.getfixturevalue("redis_service")
    if redis.given:
        redis.empty()
    else:
        redis.server.kill()
        redis.server.start()

"""Real processes as components: a round trip, and what becomes of deliveries when one of them is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pytest_celery import CeleryWorkerCluster

from signalq.models import Delivery
from signalq.pytest_celery import wait_until_settled
from tests.integration.harness import wait_for
from tests.integration.outcome import check_each_author_has_each_effect_once, states
from tests.testapp.models import Effect

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_celery import CeleryTestBroker, CeleryTestSetup, CeleryTestWorker

    from signalq.pytest_celery import CeleryTestRelay
    from tests.integration.harness import Saver


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_round_trip_and_restart(celery_setup: CeleryTestSetup, saver: Callable[..., Saver], alias: str) -> None:
    assert celery_setup.ready()
    web = saver()
    web.ask("save_each", count=1)
    assert [delivery.state for delivery in wait_until_settled(alias)] == ["done"] * 3

    worker = celery_setup.worker
    worker.kill()
    assert worker.container.status == "exited"
    web.ask("save_each", count=1)
    assert states(alias) == {"done": 3, "queued": 3}
    worker.restart()
    wait_until_settled(alias)
    check_each_author_has_each_effect_once(alias)

    worker.restart()
    assert worker.container.status == "running"
    web.ask("save_each", count=1)
    assert len(wait_until_settled(alias)) == 9
    check_each_author_has_each_effect_once(alias)


class TestTwoWorkers:
    @pytest.fixture
    def celery_worker_cluster(
        self, celery_worker: CeleryTestWorker, other_worker: CeleryTestWorker
    ) -> CeleryWorkerCluster:
        return CeleryWorkerCluster(celery_worker, other_worker)

    def test_one_takes_over_what_the_other_was_killed_in(
        self,
        celery_setup: CeleryTestSetup,
        saver: Callable[..., Saver],
        alias: str,
        held: Callable[[], list[int]],
        release: Callable[[], None],
    ) -> None:
        saver().ask("save_held", count=1)
        wait_for(held, "a handler to wait")
        (busy,) = held()
        (victim,) = [worker for worker in celery_setup.worker_cluster if worker.container.pid == busy]
        victim.kill()
        release()
        (delivery,) = wait_until_settled(alias)
        assert (delivery.state, delivery.attempt, delivery.lost_leases) == ("done", 2, 1)
        assert Effect.objects.using(alias).count() == 1
        assert victim.container.status == "exited"

    def test_they_share_the_load(
        self,
        celery_setup: CeleryTestSetup,
        saver: Callable[..., Saver],
        alias: str,
        held: Callable[[], list[int]],
        release: Callable[[], None],
    ) -> None:
        web = saver()
        pids = {worker.container.pid for worker in celery_setup.worker_cluster}

        def both_are_busy() -> bool:
            """At the latest when one has both its children in a handler, and fetched ahead what it may."""
            web.ask("save_held", count=1)
            return set(held()) == pids

        wait_for(both_are_busy, "both workers to have a handler that waits", poll=0.2)
        release()
        deliveries = wait_until_settled(alias)
        assert {delivery.state for delivery in deliveries} == {"done"}
        handled = Effect.objects.using(alias).values_list("object_pk", flat=True)
        assert sorted(handled) == sorted(delivery.object_pk for delivery in deliveries)


class TestTwoQueues:
    @pytest.fixture
    def celery_worker_cluster(
        self, celery_worker: CeleryTestWorker, mail_worker: CeleryTestWorker
    ) -> CeleryWorkerCluster:
        return CeleryWorkerCluster(celery_worker, mail_worker)

    def test_a_queue_is_its_workers_alone(
        self, celery_setup: CeleryTestSetup, saver: Callable[..., Saver], alias: str
    ) -> None:
        worker, mail_worker = celery_setup.worker_cluster
        assert (worker.worker_queue, mail_worker.worker_queue) == ("celery", "mail")
        mail_worker.kill()
        web = saver()
        web.ask("save_rows", model="Tag", rows=[{"name": "a"}])
        web.ask("save_each", count=1)
        wait_for(lambda: states(alias) == {"done": 3, "queued": 1}, "all to be done but what is in the other queue")
        mail_worker.restart()
        wait_until_settled(alias)
        assert "mailed" in mail_worker.logs()
        assert "shop.receivers.first" in worker.logs()
        assert "Task mailed[" not in worker.logs()
        assert "Task tests.integration.shop.receivers" not in mail_worker.logs()


class TestRelay:
    @pytest.fixture
    def celery_worker_cluster(self, worker_without_relay: CeleryTestWorker) -> CeleryWorkerCluster:
        return CeleryWorkerCluster(worker_without_relay)

    def test_it_finds_what_was_never_published(
        self, celery_setup: CeleryTestSetup, saver: Callable[..., Saver], alias: str, relay: CeleryTestRelay
    ) -> None:
        relay.kill()
        saver(PUBLISH=False).ask("save_each", count=1)
        assert set(Delivery.objects.using(alias).values_list("state", "attempt")) == {("queued", 0)}
        relay.restart()
        deliveries = wait_until_settled(alias)
        assert {(delivery.state, delivery.repeats) for delivery in deliveries} == {("done", 1)}
        assert celery_setup.worker.logs().count("succeeded in") == 3

    def test_it_finds_what_a_broker_has_lost(
        self,
        celery_setup: CeleryTestSetup,
        saver: Callable[..., Saver],
        alias: str,
        relay: CeleryTestRelay,
        broker: CeleryTestBroker,
    ) -> None:
        celery_setup.worker.kill()
        saver().ask("save_each", count=1)
        broker.kill()
        broker.restart()
        celery_setup.worker.restart()
        assert {delivery.state for delivery in wait_until_settled(alias)} == {"done"}

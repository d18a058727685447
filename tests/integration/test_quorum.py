"""RabbitMQ's quorum queues: publishing with confirms, consuming, and the relay's look at their depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once, states
from tests.services import rabbitmqctl

if TYPE_CHECKING:
    from tests.integration.harness import Site
    from tests.services import RabbitMQ

pytestmark = [
    pytest.mark.parametrize("alias", ["default"], indirect=True),
    pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True),
    pytest.mark.timeout(180),
]


@pytest.fixture(autouse=True)
def quorum(site: Site) -> None:
    site.env["DJANGO_SETTINGS_MODULE"] = "tests.integration.quorum_settings"


def test_what_a_quorum_queue_lost_is_published_again(site: Site, alias: str, rabbitmq_service: RabbitMQ) -> None:
    worker, saver = site.worker(), site.saver()
    listed = rabbitmqctl("list_queues", "-q", "-p", rabbitmq_service.vhost, "name", "type", "--no-table-headers")
    assert "celery\tquorum" in listed.splitlines()
    saver.ask("save_in_one_transaction", count=100, rolled_back=0)
    wait_for(all_done(alias, 300), lambda: f"300 deliveries to be done; {states(alias)}", timeout=60)
    worker.terminate()

    saver.ask("save_in_one_transaction", count=100, rolled_back=0)
    wait_for(rabbitmq_service.purge, "its messages, to lose them")
    site.worker()
    wait_for(all_done(alias, 600), lambda: f"600 deliveries to be done; {states(alias)}", timeout=60)
    check_each_author_has_each_effect_once(alias)

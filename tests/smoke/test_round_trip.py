"""One save, handled by a real worker; and once more by the same worker after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once
from tests.testapp.models import Author

if TYPE_CHECKING:
    from pytest_celery import CeleryTestSetup

    from tests.integration.harness import Site


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_round_trip(celery_setup: CeleryTestSetup, site: Site, alias: str) -> None:
    assert celery_setup.ready()
    saver = site.saver()
    saver.ask("save_each", count=1)
    wait_for(all_done(alias, 3), "three deliveries to be done")

    celery_setup.worker.kill()
    assert celery_setup.worker.container.status == "exited"
    saver.ask("save_each", count=1)
    celery_setup.worker.restart()
    wait_for(all_done(alias, 6), "six deliveries to be done")
    assert Author.objects.using(alias).count() == 2
    check_each_author_has_each_effect_once(alias)

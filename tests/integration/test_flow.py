"""From a save to its three effects, through real processes, on each kind of broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import wait_for
from tests.integration.outcome import all_done, check_each_author_has_each_effect_once, states
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.harness import Site

pytestmark = [
    pytest.mark.parametrize("alias", ["default", "sqlite"], indirect=True),
    pytest.mark.timeout(180),
]

EACH_BROKER = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)


@EACH_BROKER
def test_a_thousand_saves_in_one_transaction(site: Site, alias: str, figures: Callable[..., None]) -> None:
    saver = site.saver()
    worker = site.worker()
    started = time.monotonic()
    saved = saver.ask("save_in_one_transaction", count=1000, rolled_back=50)
    assert sum(states(alias).values()) == 3000
    wait_for(all_done(alias, 3000), lambda: f"3,000 deliveries to be done; {states(alias)}", timeout=120)
    done = time.monotonic() - started

    assert Author.objects.using(alias).count() == 1000
    check_each_author_has_each_effect_once(alias)
    assert saved["inserts"] <= 8
    figures(inserts=saved["inserts"], seconds_saving=saved["seconds"], seconds_to_done=done, per_second=3000 / done)
    assert worker.terminate() < 20

"""A row of the outbox whose text was damaged is told by itself; its neighbours in the chunk run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.dispatch import Signal

from signalq import async_receiver
from tests.steps import outbox, states, work
from tests.testapp.models import Author

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.fault(18, 32)]

happened = Signal()
KEYS: dict[str, Any] = {
    "infinity": {"$": "float", "v": "inf"},
    "nan": {"$": "float", "v": "nan"},
    "beyond Python's limit of digits": {"$": "int", "v": "1" * 5_000},
    "nul": "a\x00b",
    "a list": [1],
    "a signalling nan": {"$": "decimal", "v": "sNaN"},
    "nobody's": {"$": "own", "v": ["nobody", None]},
}


@pytest.mark.parametrize("pk", KEYS.values(), ids=KEYS)
def test_a_damaged_key_harms_no_neighbour(alias: str, pk: Any) -> None:
    async_receiver(happened, name="neighbours", using=alias, max_retries=0)(lambda **kwargs: None)
    author = Author.objects.using(alias).create(name="Ada")
    for _ in range(3):
        happened.send(None, value=author)
    damaged = outbox(alias)[1]
    payload = json.loads(damaged.payload)
    payload["arguments"]["value"]["v"][1] = pk
    outbox(alias, pk=damaged.pk).update(payload=json.dumps(payload))
    work(alias)
    first, middle, last = [state for _, state, _ in states(alias)]
    assert (first, last) == ("done", "done")
    assert middle in ("dead", "discarded")

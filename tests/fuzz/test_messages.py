"""Messages that name a task of ours, damaged or forged: refused and counted; the worker and its rows are well."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db import transaction
from django.db.models.signals import post_save
from hypothesis import HealthCheck, example, given, settings as hypothesis_settings, strategies as st

from signalq import async_receiver, tasks, wire
from signalq.signals import counts, message_refused
from tests.fuzz import targets
from tests.steps import outbox, states
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.fault(18)]

HUGE = "x" * 20_000_000


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    app = celery.Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    async_receiver(post_save, sender=Author, name="damaged.durable")(lambda **kwargs: None)
    async_receiver(post_save, sender=Author, name="damaged.transient", durable=False)(lambda **kwargs: None)
    yield app
    app.close()


@pytest.fixture
def reasons() -> Iterator[list[str]]:
    told: list[str] = []

    def tell(sender: str, reason: str, **kwargs: Any) -> None:
        told.append(reason)

    message_refused.connect(tell)
    yield told
    message_refused.disconnect(tell)


def ids(*values: Any) -> list[Any]:
    return ["default", [*values]]


DAMAGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "nothing": ([], {}),
    "no ids": (["default"], {}),
    "three": (["default", [1], 1], {}),
    "keywords": (ids(1), {"countdown": 1}),
    "a keyword named self": (ids(1), {"self": 1}),
    "only keywords": ([], {"using": "default", "ids": [1]}),
    "a string": (ids("1"), {}),
    "a float": (ids(1.0), {}),
    "nan": (ids(float("nan")), {}),
    "a bool": (ids(True), {}),
    "null": (ids(None), {}),
    "zero": (ids(0), {}),
    "negative": (ids(-1), {}),
    "beyond 64 bits": (ids(2**63), {}),
    "5,000 digits": (ids(10**5_000), {}),
    "a list": (ids([1]), {}),
    "an object": (ids({"pk": 1}), {}),
    "the last of many": (ids(*range(1, 100), "1"), {}),
    "a million": (ids(*range(1, 1_000_001)), {}),
    "ids as text": (["default", "1,2"], {}),
    "20 MB of ids": (["default", HUGE], {}),
    "no such alias": (["nowhere", [1]], {}),
    "an odd alias": (["\x00\ud800", [1]], {}),
    "alias as list": ([["default"], [1]], {}),
    "alias as object": ([{"default": 1}, [1]], {}),
    "no alias": ([None, [1]], {}),
    "20 MB of alias": ([HUGE, [1]], {}),
    "deep": (["default", json.loads("[" * 500 + "]" * 500)], {}),
}


@pytest.mark.parametrize(("arguments", "keywords"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_wake_up_call_is_refused_and_counted(
    app: celery.Celery,
    alias: str,
    arguments: Any,
    keywords: dict[str, Any],
    reasons: list[str],
) -> None:
    with transaction.atomic(alias):
        Author.objects.using(alias).create(name="Ada")
    before, rows = counts["refused"], list(outbox(alias).values())
    result = app.tasks["damaged.durable"].apply(arguments, keywords)
    assert result.successful(), result.result
    assert counts["refused"] == before + 1
    assert len(reasons[0]) < 200, "what is refused is not repeated in the log"
    assert list(outbox(alias).values()) == rows
    # The true message is still good.
    app.tasks["damaged.durable"].apply((alias, [rows[0]["id"]]))
    assert states(alias) == [("damaged.durable", "done", 1)]


@pytest.mark.parametrize(
    "signed",
    [
        None,
        17,
        "",
        ":",
        "\ud800:\udfff",
        "\x00",
        HUGE,
        [wire.HEADER],
        {"signed": ""},
        wire.signer().sign("damaged.transient"),
        wire.signer().sign("damaged.transient\n0\n{}"),
        wire.signer().sign("damaged.transient\nnan\n" + "[" * 100_000),
        wire.signer().sign("damaged.transient\n0\n" + HUGE),
        wire.signer().sign("\n\n"),
    ],
    ids=lambda signed: repr(signed)[:40],
)
def test_a_damaged_transient_message_is_refused_and_counted(
    app: celery.Celery, signed: Any, reasons: list[str]
) -> None:
    before = counts["refused"]
    result = app.tasks["damaged.transient"].apply((signed,))
    assert result.successful(), result.result
    assert counts["refused"] == before + 1
    assert len(reasons[0]) < 1_000


def test_a_million_row_numbers_cost_nothing(app: celery.Celery, figures: Callable[..., None]) -> None:
    numbers = list(range(1, 1_000_001))
    run = app.tasks["damaged.durable"].run
    run("default", [0])
    tracemalloc.start()
    started = time.perf_counter()
    run("default", numbers)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    figures(seconds=seconds, peak_kb=peak / 1e3)
    assert seconds < 0.5
    assert peak < 1_000_000


def test_a_chunk_as_large_as_the_setting_allows_is_taken(app: celery.Celery, alias: str, settings: Any) -> None:
    """CHUNK has no upper limit, and what the sender may send the worker takes."""
    settings.SIGNALQ = {**settings.SIGNALQ, "CHUNK": 2 * tasks.MAX_IDS}
    with transaction.atomic(alias):
        Author.objects.using(alias).create(name="Ada")
    pk = outbox(alias).get().pk
    app.tasks["damaged.durable"].apply((alias, [pk, *range(pk + 1, pk + 2 * tasks.MAX_IDS)]))
    assert states(alias) == [("damaged.durable", "done", 1)]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("default"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(anything, max_size=4), st.dictionaries(st.text(max_size=5), anything, max_size=2))
@example(["default", [1, 2]], {})
@example(["default", []], {})
@example([], {"self": 1, "name": 2})
def test_no_body_at_all_raises_in_a_worker(arguments: list[Any], keywords: dict[str, Any]) -> None:
    for name in ("fuzz.durable", "fuzz.transient"):
        targets.deliver(name, arguments, keywords)

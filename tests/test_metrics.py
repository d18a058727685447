"""Prometheus: what is counted, what a look at it costs, and that several processes are one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_save
from django.test import RequestFactory
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from signalq import Discard, async_receiver, extras, metrics, publish, signals, wire
from signalq.relay import Relay
from tests.steps import come_due, outbox, work
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def counted(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """METRICS is on, and the broker takes everything."""
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True, "METRICS": True}
    monkeypatch.setattr(wire.Channel, "send", lambda self, items: None)
    monkeypatch.setattr(wire.Channel, "queue", lambda self, receiver: receiver)
    monkeypatch.setattr(wire.Channel, "depth", lambda self, queue: 0)
    monkeypatch.setattr(publish.publisher, "put", publish.Publisher()._send)
    extras.connect()
    yield
    metrics.disconnect()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def shown() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus reads: each sample by its name and labels."""
    response = metrics.view(RequestFactory().get("/metrics"))
    assert response["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.content.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(found: dict[Any, float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def test_what_is_counted(alias: str, counted: None) -> None:
    name = f"counted on {alias}"
    answers: list[BaseException | None] = [None, ValueError("no"), Discard("no"), KeyError("no")]

    @async_receiver(post_save, sender=Author, name=name, dont_autoretry_for=(KeyError,))
    def counted_(**kwargs: Any) -> None:
        if answer := answers.pop(0):
            raise answer

    for _ in range(4):
        Author(name="Ada").save(using=alias)
    work(alias)
    assert value("signalq_captured_total", receiver=name) == 4
    assert value("signalq_published_total", receiver=name, by="commit") == 4
    for outcome in ("done", "retry", "discarded", "dead"):
        assert value("signalq_outcomes_total", receiver=name, outcome=outcome) == 1
    assert value("signalq_duration_seconds_count", receiver=name) == 4
    assert 0 < value("signalq_duration_seconds_sum", receiver=name) < 4
    come_due(alias)
    rounds = value("signalq_relay_rounds_total")
    Relay([alias]).round()
    assert value("signalq_relay_rounds_total") == rounds + 1
    assert value("signalq_published_total", receiver=name, by="relay") == 1


def test_what_never_ran_took_no_time(alias: str, counted: None) -> None:
    name = f"superseded on {alias}"
    async_receiver(post_save, sender=Author, name=name, coalesce=0)(lambda **kwargs: None)
    author = Author(name="Ada")
    for _ in range(3):
        author.save(using=alias)
    work(alias)
    assert value("signalq_outcomes_total", receiver=name, outcome="discarded") == 2
    assert value("signalq_duration_seconds_count", receiver=name) == 1


def test_the_breaker(counted: None) -> None:
    publisher = publish.Publisher()
    publisher._open_breaker(ConnectionError("refused"))
    assert value("signalq_breaker_open") == 1
    publisher._close_breaker()
    assert value("signalq_breaker_open") == 0


def test_refused_messages_and_lost_leases(alias: str, counted: None) -> None:
    name = f"loses on {alias}"

    @async_receiver(post_save, sender=Author, name=name)
    def loses(**kwargs: Any) -> None:
        outbox(alias).update(attempt=9)

    before = value("signalq_messages_refused_total")
    signals.message_refused.send_robust(name, reason="forged")
    Author(name="Ada").save(using=alias)
    work(alias)
    assert value("signalq_leases_lost_total", receiver=name) == 1
    assert value("signalq_messages_refused_total") == before + 1


def test_the_view_shows_lag_and_numbers_of_the_outbox(alias: str, counted: None) -> None:
    name = f"late on {alias}"
    async_receiver(post_save, sender=Author, name=name, queue="mail")(lambda **kwargs: None)
    for _ in range(3):
        Author(name="Ada").save(using=alias)
    outbox(alias, pk__in=list(outbox(alias).values_list("pk", flat=True)[:1])).update(state="dead", due_at=None)
    come_due(alias)
    row = outbox(alias)[1]
    row.pk, row.receiver = None, f"gone from {alias}"
    row.save(using=alias, force_insert=True)
    found = shown()
    lag = [
        value
        for (metric, labels), value in found.items()
        if metric == "signalq_lag_seconds" and ("receiver", name) in labels
    ]
    assert lag[0] > 0
    assert sample(found, "signalq_deliveries", receiver=name, state="queued") == 2
    assert sample(found, "signalq_deliveries", receiver=name, state="dead") == 1
    assert sample(found, "signalq_parked", receiver=f"gone from {alias}") == 1
    assert sample(found, "signalq_parked", receiver=name) == 0
    assert sample(found, "signalq_database_up", database=alias) == 1
    assert sample(found, "signalq_captured_total", receiver=name) == 3


def test_only_reading(every_alias: list[str]) -> None:
    assert metrics.view(RequestFactory().post("/metrics")).status_code == 405


def test_the_default_registry_asks_no_database() -> None:
    """The collector may be put into any registry: that alone asks nothing."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(metrics.OutboxCollector())  # no database is allowed here


def test_off_is_off(alias: str) -> None:
    name = f"off on {alias}"
    async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    Author(name="Ada").save(using=alias)
    work(alias)
    assert value("signalq_captured_total", receiver=name) == 0
    assert signals.delivery_captured.receivers == []


@pytest.mark.parametrize(
    ("setting", "library", "extra"),
    [("METRICS", "prometheus_client", "prometheus"), ("TRACING", "opentelemetry", "opentelemetry")],
)
def test_a_library_that_is_missing_is_named(
    settings: Any, monkeypatch: pytest.MonkeyPatch, setting: str, library: str, extra: str
) -> None:
    settings.SIGNALQ = {setting: True}
    for module in [
        name for name in sys.modules if name.split(".")[0] == library or name in ("signalq.metrics", "signalq.tracing")
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ImproperlyConfigured, match=rf"SIGNALQ\['{setting}'\] is True.*{library}.*pip install signalq\[{extra}\]"
    ):
        extras.connect()


FORKS = """
import os, sys
import django
django.setup()
from django.db.models.signals import post_save
from signalq import async_receiver, metrics, publish, signals
from signalq.event import Outcome, Result
from signalq.settle import tell
from types import SimpleNamespace

@async_receiver(post_save, name="forked")
def forked(**kwargs): ...

delivery = SimpleNamespace(pk=1, event_id="e", attempt=1)
def work(broken=False):
    tell(forked, delivery, Outcome(Result.DONE), 0.25)
    signals.breaker_changed.send_robust(None, open=broken)

work()
children = []
for number in range(4):
    pid = os.fork()
    if not pid:
        for _ in range(25):
            work(broken=number == 0)
        if number == 1:
            metrics.process_ends()
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
import prometheus_client
print(prometheus_client.generate_latest(metrics.registry(outbox=False)).decode())
"""


def test_forked_processes_are_one(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORKS],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.metered_settings",
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    families = text_string_to_metric_families(ran.stdout)
    found = {(s.name, s.labels.get("receiver")): s.value for family in families for s in family.samples}
    assert found["signalq_outcomes_total", "forked"] == 1 + 4 * 25
    assert found["signalq_duration_seconds_count", "forked"] == 101
    assert found["signalq_duration_seconds_sum", "forked"] == pytest.approx(101 * 0.25)
    assert found["signalq_breaker_open", None] == 1
    assert len(list(tmp_path.glob("counter_*.db"))) == 5
    assert len(list(tmp_path.glob("gauge_livemax_*.db"))) == 4, "one said that it ends"


def _expressions() -> list[str]:
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    return found


def test_the_dashboard_asks_for_what_there_is(alias: str, counted: None) -> None:
    """Each metric that an expression names is shown, with each label that it is asked by."""
    name = f"drawn on {alias}"
    async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    Author(name="Ada").save(using=alias)
    work(alias)
    metrics.leases_lost.labels(name)
    labels: dict[str, set[str]] = {}
    for metric, pairs in shown():
        labels.setdefault(metric, set()).update(label for label, _ in pairs)
    expressions = _expressions()
    assert len(expressions) > 15
    for expression in expressions:
        names = set(re.findall(r"\bsignalq_\w+", expression))
        assert len(names) == 1, expression
        (metric,) = names
        assert metric in labels, f"{metric} is not shown: {expression}"
        asked = {label for labels_ in re.findall(r"by \((.*?)\)", expression) for label in re.split(r",\s*", labels_)}
        asked |= set(re.findall(r"(\w+)=~?\"", expression)) | set(re.findall(r"label_values\(\w+, (\w+)\)", expression))
        assert asked <= labels[metric], expression
    drawn = {name for expression in expressions for name in re.findall(r"\bsignalq_\w+", expression)}
    exposed = {
        metric
        for metric in labels
        if metric.startswith("signalq_") and not metric.endswith(("_created", "_count", "_sum"))
    }
    assert drawn == exposed, "and nothing is left out"


def test_outcomes_and_states_in_the_dashboard_exist() -> None:
    from signalq.event import Result
    from signalq.state import State

    for expression in _expressions():
        for label, known in (("outcome", {result.value for result in Result}), ("state", set(State.values))):
            for values in re.findall(rf'\b{label}=~?"(.*?)"', expression):
                assert set(values.split("|")) <= known, expression

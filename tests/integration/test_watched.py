"""What those see who watch a site from outside, through real processes: Prometheus, OpenTelemetry, Sentry, Flower."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import celery
import pytest
from prometheus_client.parser import text_string_to_metric_families

from signalq.event import delivery_id
from signalq.models import Delivery
from tests.integration.harness import Process, wait_for
from tests.integration.outcome import states

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.harness import Site

pytestmark = [
    pytest.mark.parametrize("alias", ["default"], indirect=True),
    pytest.mark.parametrize("broker", ["redis"], indirect=True),
    pytest.mark.timeout(180),
]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def watched(site: Site, port: int, tmp_path: Path) -> Site:
    shared = tmp_path / "prometheus"
    shared.mkdir()
    site.env |= {
        "DJANGO_SETTINGS_MODULE": "tests.integration.watched_settings",
        "PROMETHEUS_MULTIPROC_DIR": str(shared),
        "METRICS_PORT": str(port),
    }
    return site


def lines(site: Site, kind: str) -> list[dict[str, Any]]:
    file = site.scratch / f"{kind}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line] if file.exists() else []


def spans(site: Site, name: str) -> list[dict[str, Any]]:
    found = [span for span in lines(site, "spans") if span["name"] == name]
    return sorted(found, key=lambda span: str(span["start_time"]))


def scraped(port: int) -> dict[tuple[str, str | None, str | None], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {
            (sample.name, sample.labels.get("receiver"), sample.labels.get("outcome")): sample.value
            for family in families
            for sample in family.samples
        }


CREATE = "create django.db.models.signals.post_save"


def test_traces_and_metrics(watched: Site, alias: str, port: int) -> None:
    saver = watched.saver()
    watched.worker()
    saver.ask("save_traced", model="Author", rows=[{"name": "Ada"}])
    saver.ask("save_traced", model="Tag", rows=[{"name": "t"}])
    saver.ask("save_traced", model="Book", rows=[{"title": "b"}])
    wait_for(lambda: states(alias) == {"done": 1, "dead": 1}, lambda: str(states(alias)), timeout=60)

    for receiver, outcomes in {
        "watched.done": ["done"],
        "watched.dead": ["retry", "dead"],
        "watched.transient": ["retry", "dead"],
    }.items():
        name = f"process {receiver}"
        wait_for(lambda name=name, outcomes=outcomes: len(spans(watched, name)) >= len(outcomes), name)  # type: ignore[misc]
        processed = spans(watched, name)
        (sent,) = spans(watched, f"send {receiver}")
        assert [span["attributes"]["signalq.outcome"] for span in processed] == outcomes
        assert [span["attributes"]["signalq.attempt"] for span in processed] == [1, 2][: len(outcomes)]
        (trace_id,) = {span["context"]["trace_id"] for span in [*processed, sent]}
        in_trace = {span["name"]: span for span in lines(watched, "spans") if span["context"]["trace_id"] == trace_id}
        request, create = in_trace["GET /"], in_trace[CREATE]
        assert create["parent_id"] == sent["parent_id"] == request["context"]["span_id"]
        assert {span["parent_id"] for span in processed} == {create["context"]["span_id"]}
        errors = [event["attributes"]["exception.type"] for span in processed for event in span["events"]]
        assert errors == ["ValueError"] * outcomes.count("retry") + ["ValueError"] * outcomes.count("dead")

    wait_for(lambda: scraped(port).get(("signalq_outcomes_total", "watched.transient", "dead")), "the last outcome")
    found = scraped(port)
    assert found["signalq_captured_total", "watched.done", None] == 1  # by the saving process
    assert found["signalq_outcomes_total", "watched.done", "done"] == 1  # by a child of the worker
    assert found["signalq_outcomes_total", "watched.dead", "retry"] == 1
    assert found["signalq_outcomes_total", "watched.dead", "dead"] == 1
    assert found["signalq_outcomes_total", "watched.transient", "dead"] == 1
    assert found["signalq_duration_seconds_count", "watched.dead", None] == 2
    assert found["signalq_relay_rounds_total", None, None] > 0  # by the worker's relay
    assert ("signalq_lag_seconds", "watched.done", None) not in found


def test_errors_reach_sentry_once_with_receiver_and_delivery(watched: Site, alias: str) -> None:
    saver = watched.saver()
    worker = watched.worker()
    saver.ask("save_rows", model="Tag", rows=[{"name": "t"}, {"name": "u"}])
    saver.ask("save_rows", model="Book", rows=[{"title": "b"}])
    wait_for(lambda: states(alias) == {"dead": 2}, lambda: str(states(alias)), timeout=60)
    wait_for(lambda: len(spans(watched, "process watched.transient")) == 2, "the transient delivery to fail twice")
    worker.terminate()

    events = lines(watched, "sentry")
    told = Counter(event["tags"]["signalq.receiver"] for event in events)
    assert told == {"watched.dead": 2, "watched.transient": 1}
    rows = {str(row.pk): row for row in Delivery.objects.using(alias)}
    for event in events:
        tags, (error, *_) = event["tags"], reversed(event["exception"]["values"])
        kind = tags["signalq.receiver"].removeprefix("watched.")
        assert (error["type"], error["value"]) == (
            "ValueError",
            f"{'durable' if kind == 'dead' else 'transient'}, attempt 2",
        )
        assert tags["signalq.attempt"] == "2"
        assert error["stacktrace"]["frames"][-1]["function"] == kind
        if kind == "dead":
            row = rows.pop(tags["signalq.delivery"])
            assert tags["signalq.event"] == str(row.event_id)
    assert rows == {}


class Watching:
    """What Celery's own events tell, as Flower hears them."""

    def __init__(self, broker: str) -> None:
        self._app = celery.Celery(broker=broker, set_as_current=False)
        self._connection = self._app.connection_for_read()
        self.events: list[dict[str, Any]] = []
        self._receiver = self._app.events.Receiver(self._connection, handlers={"*": self.events.append})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def names(self) -> dict[str, Counter[str]]:
        """How often which event came, by the task's name."""
        tasks = {event["uuid"]: event["name"] for event in self.events if event["type"] == "task-received"}
        found: dict[str, Counter[str]] = {}
        for event in list(self.events):
            if event["type"].startswith("task-"):
                found.setdefault(tasks.get(event["uuid"], "?"), Counter())[event["type"]] += 1
        return found

    def close(self) -> None:
        self._receiver.should_stop = True
        self._connection.close()
        self._thread.join(10)


def test_flower_and_celery_s_events_know_receivers_by_name(
    watched: Site, alias: str, broker: str, port: int, tmp_path: Path
) -> None:
    watching = Watching(broker)
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.celeryapp", "flower", f"--port={port}"]
    env = {**watched.env, "FLOWER_UNAUTHENTICATED_API": "true", "METRICS_PORT": "0"}
    flower = Process("flower", [*command, "--address=127.0.0.1"], tmp_path / "flower.log", env)
    watched.processes.append(flower)
    flower.wait_for_output("Connected to redis")
    saver = watched.saver()
    watched.worker("-E", METRICS_PORT="0")
    saver.ask("save_rows", model="Author", rows=[{"name": "Ada"}])
    saver.ask("save_rows", model="Book", rows=[{"title": "b"}])
    saver.ask("save_rows", model="Tag", rows=[{"name": "t"}])
    wait_for(lambda: states(alias) == {"done": 1, "dead": 1}, lambda: str(states(alias)), timeout=60)

    def seen() -> bool:
        found = watching.names()
        return (
            found.get("watched.done", Counter())["task-succeeded"] == 1
            and found.get("watched.dead", Counter())["task-succeeded"] == 2  # its failures are signalq's, not Celery's
            and found.get("watched.transient", Counter()) >= Counter(["task-retried", "task-failed"])
        )

    wait_for(seen, lambda: str(watching.names()))
    row = Delivery.objects.using(alias).get(receiver="watched.done")
    assert str(delivery_id(row.event_id, row.receiver)) not in {event.get("uuid") for event in watching.events}
    watching.close()

    def api(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=10) as response:
            return json.load(response)

    def tasks() -> Counter[tuple[str, str]]:
        return Counter((task["name"], task["state"]) for task in api("tasks").values())

    expected = Counter(
        {
            ("watched.done", "SUCCESS"): 1,
            ("watched.dead", "SUCCESS"): 2,
            ("watched.transient", "FAILURE"): 1,
        }
    )
    wait_for(lambda: tasks() == expected, lambda: str(tasks()))
    assert list(api("workers?status=true").values()) == [True], "known by its events, with remote control off"
    assert {(task["args"], task["kwargs"]) for task in api("tasks").values()} == {("...", "{}")}

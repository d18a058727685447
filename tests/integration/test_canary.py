"""What real processes leave where others may read it, with everything on that might show an argument."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db.models import Model
from django_celery_results.models import TaskResult

from signalq.models import Delivery
from tests.integration.harness import Process, wait_for
from tests.testapp.models import Effect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.harness import Site

pytestmark = [pytest.mark.parametrize("alias", ["default"], indirect=True), pytest.mark.timeout(180)]

EACH_BROKER = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
CANARY = "Canary-7f3a"
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.integration.canary.settings"}


class Events:
    """Celery's task events, as a monitor hears them."""

    def __init__(self, app: celery.Celery) -> None:
        self.seen: list[dict[str, Any]] = []
        self._app = app
        self._receiver: Any = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            self._receiver = self._app.events.Receiver(connection, handlers={"*": self.seen.append})
            self._receiver.on_consume_ready = lambda *args, **kwargs: self._ready.set()
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def stop(self) -> None:
        self._receiver.should_stop = True
        self._thread.join(20)

    def types(self) -> set[str]:
        return {event["type"] for event in self.seen}


@pytest.fixture
def app(broker: str) -> Iterator[celery.Celery]:
    app = celery.Celery("monitor", broker=broker, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def events(app: celery.Celery) -> Iterator[Events]:
    events = Events(app)
    events.start()
    yield events
    events.stop()


def tell(site: Site) -> Process:
    """A web process sends the signals and ends."""
    command = [sys.executable, "-m", "tests.integration.canary.tell", CANARY]
    web = Process("web", command, site.scratch / "web.log", {**site.env, **SETTINGS})
    site.processes.append(web)
    assert web.popen.wait(timeout=60) == 0, web.output()
    return web


def columns(model: type[Model], *left_out: str) -> str:
    """Everything that the table holds, as text."""
    names = [field.name for field in model._meta.concrete_fields if field.name not in left_out]
    return repr(list(model._default_manager.using("default").values(*names)))


def results(alias: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for status in TaskResult.objects.using(alias).values_list("status", flat=True):
        found[status] = found.get(status, 0) + 1
    return found


@EACH_BROKER
def test_no_argument_is_in_a_log_a_result_or_a_task_event(site: Site, alias: str, events: Events) -> None:
    # It does not know two of the six receivers: a worker of the deployment before.
    worker = site.worker(CANARY_OLD_WORKER="1", **SETTINGS)
    web = tell(site)
    deliveries = Delivery.objects.using(alias)
    wait_for(lambda: Effect.objects.using(alias).count() == 2, "the two handlers that work")
    wait_for(lambda: deliveries.filter(receiver="durable.fails", state="dead").exists(), "the dead letter")
    # The failures are those of the two handlers that fail, and of the two messages that the worker does not know.
    wait_for(lambda: results(alias) == {"SUCCESS": 2, "FAILURE": 4}, lambda: f"the outcomes; {results(alias)}")
    wait_for(lambda: worker.output().count("Received unregistered task") >= 2, "two unknown tasks")
    expected = {"task-sent", "task-received", "task-started", "task-succeeded", "task-retried", "task-failed"}
    wait_for(lambda: events.types() >= expected, lambda: f"the events; {events.types()}")

    # The handlers did get it, and the row of a durable delivery holds it: so it could have shown.
    assert set(Effect.objects.using(alias).values_list("note", flat=True)) == {CANARY}
    assert CANARY in columns(Delivery)
    assert "characters are too many" in worker.output()
    assert "(left out: an event)" in worker.output()
    for where, text in {
        "the worker's log": worker.output(),
        "the web process's log": web.output(),
        "the result backend": columns(TaskResult),
        "the outbox, besides the event itself": columns(Delivery, "payload"),
        "Celery's task events": repr(events.seen),
    }.items():
        assert CANARY not in text, where


@EACH_BROKER
def test_the_broker_holds_row_numbers_and_for_transient_deliveries_the_event(
    site: Site, alias: str, app: celery.Celery
) -> None:
    tell(site)
    numbers = dict(Delivery.objects.using(alias).values_list("receiver", "pk"))
    assert len(numbers) == 3
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        messages = [queue.get(timeout=10) for _ in range(6)]
        queue.close()
    for message in messages:
        beside = repr((message.headers, message.properties, message.delivery_info))
        assert CANARY not in beside
        body = message.body if isinstance(message.body, str) else bytes(message.body).decode()
        name = message.headers["task"]
        if name.startswith("durable"):
            assert CANARY not in body
            assert json.loads(body)[:2] == [[alias, [numbers[name]]], {}]
        else:
            # A signature is no envelope: who can read the broker can read it.
            assert CANARY in body
            assert len(json.loads(body)[0]) == 1


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
@pytest.mark.parametrize("limit", [{"time_limit": 30}, {"soft_time_limit": 30}])
def test_a_forged_time_limit_is_refused_and_the_relay_sees_to_the_delivery(
    site: Site, alias: str, app: celery.Celery, limit: dict[str, int]
) -> None:
    tell(site)
    app.control.purge()
    delivery = Delivery.objects.using(alias).get(receiver="durable.works")
    app.send_task("durable.works", [alias, [delivery.pk]], **limit)
    worker = site.worker(**SETTINGS)
    worker.wait_for_output("A message to durable.works was refused")
    wait_for(lambda: Effect.objects.using(alias).filter(receiver="durable.works").exists(), "the relay's message")
    delivery.refresh_from_db()
    assert (delivery.attempt, delivery.lost_leases) == (1, 0)

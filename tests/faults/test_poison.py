"""Messages that nobody of ours has sent: row 18. What is damaged inside a task of ours, tests/test_tasks.py has."""

from __future__ import annotations

import base64
import json
import pickle
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import queues
from tests.integration.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.run import Run

pytestmark = [pytest.mark.timeout(600)]

FIRST = "tests.faults.shop.ours.first"
HUNG = 10.0
"""Seconds after Celery's last words that a worker has to end."""
MEGABYTE = 1024 * 1024


TASK = {"task": FIRST, "id": str(uuid.uuid4()), "lang": "py", "argsrepr": "...", "kwargsrepr": "{}"}


class Marker:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def refusable() -> Iterator[bytes]:
    """Bodies that reach a task of ours."""
    yield json.dumps([["default", [10**30, -1, "1", None]], {}, {}]).encode()
    yield json.dumps([["elsewhere", [1]], {"ids": [2]}, {}]).encode()
    yield json.dumps([["default", ["x" * (20 * MEGABYTE)]], {}, {}]).encode()


def bodies(unpickled: str) -> Iterator[tuple[bytes, dict[str, Any], str]]:
    """(body, headers, content type)."""
    fine = json.dumps([["default", [1]], {}, {}]).encode()
    yield b"no json", TASK, "application/json"
    yield b"\xff\xfe\x00", TASK, "application/json"
    yield pickle.dumps([[Marker(unpickled)], {}, {}]), TASK, "application/x-python-serialize"
    yield fine, {**TASK, "task": "nobody.knows.it"}, "application/json"
    yield fine, {**TASK, "task": "os.system"}, "application/json"
    yield fine, {**TASK, "id": None}, "application/json"
    yield fine, {**TASK, "timelimit": "q"}, "application/json"
    yield fine, {**TASK, "expires": "never", "eta": "tomorrow"}, "application/json"
    yield fine, {}, "application/json"
    yield b"[]", TASK, "application/json"


def send(broker: str, body: bytes, headers: dict[str, Any], content_type: str) -> None:
    if broker.startswith("amqp"):
        properties = {"application_headers": headers, "content_type": content_type, "content_encoding": "utf-8"}
        queues.publish(broker, body, correlation_id="x", **properties)
        return
    info = {"exchange": "", "routing_key": queues.QUEUE}
    properties = {"delivery_tag": str(uuid.uuid4()), "delivery_info": info, "body_encoding": "base64"}
    envelope = {"body": base64.b64encode(body).decode(), "headers": headers, "properties": properties}
    envelope |= {"content-type": content_type, "content-encoding": "utf-8"}
    queues.publish(broker, json.dumps(envelope).encode())


class Operator:
    """Supervises the worker, and purges the queue when every new worker ends over the same message.

    Celery's own end may hang: nobody writes the rest of a large message to the child that reads it. Then it is killed,
    as whatever asks for its health would do it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.purges = self.hung = 0
        self._restarts = 0
        self._last_words: dict[int, float] = {}

    def __call__(self) -> None:
        worker = [process for process in self.run.site.processes if process.name == "worker"][-1]
        ended = worker.popen.poll() is not None
        if not ended and "Unrecoverable error" in worker.output():
            spoken = self._last_words.setdefault(worker.popen.pid, time.monotonic())
            if time.monotonic() - spoken > HUNG:
                worker.kill()
                self.hung += 1
        if ended and self.run.site.restarts >= self._restarts + 2:
            # While no worker runs: on Redis what one has in hand is in no queue.
            queues.purge(self.run.broker)
            self.purges += 1
            self.breathe()
        self.run.supervised()

    def breathe(self) -> None:
        self._restarts = self.run.site.restarts


def refused(run: Run) -> int:
    """How often a worker has said so."""
    return sum(process.output().count("was refused,") for process in run.site.processes if process.name == "worker")


@pytest.mark.fault(18)
@pytest.mark.sites("default redis", "default rabbitmq")
def test_poison_in_the_queue(run: Run, figures: Callable[..., None]) -> None:
    """Ours is handled before, between and after.

    Celery's own worker ends over some of it, so it has a supervisor. What each new worker meets again and ends over
    has to be purged, with all that waits: nothing of ours is lost by that.
    """
    operator = Operator(run)
    unpickled = run.site.scratch / "unpickled"
    # Those over which a worker ends again and again take a minute: for the long version.
    poison = [one for one in bodies(str(unpickled)) if run.long or not (one[0] == b"[]" or "timelimit" in one[1])]
    run.worker()
    mill = run.mill("ours", seed=181, requests=1_000_000, rate=4)
    # Before anything that ends a worker: a purge would take them along.
    for body in refusable():
        before = refused(run)
        send(run.broker, body, TASK, "application/json")
        what = "what names a task of ours to be reported"
        wait_for(lambda before=before: (operator(), refused(run) > before)[1], what, timeout=60)  # type: ignore[misc]
    for body, headers, content_type in poison:
        operator.breathe()
        send(run.broker, body, headers, content_type)
        wait_for(lambda: (operator(), queues.depth(run.broker) == 0)[1], "the poison to be taken", timeout=60)
        run.wait_for_handler("first", meanwhile=operator)
    if run.broker.startswith("redis"):
        queues.publish(run.broker, b"not even an envelope")
        queues.publish(run.broker, b"{}")
    run.stop(mill)
    converged = run.converge(meanwhile=operator)
    wait_for(lambda: (operator(), queues.depth(run.broker) == 0)[1], "the poison to be taken", timeout=60)
    assert not unpickled.exists()
    figures(
        **run.check(
            bites=False,
            poison=len(poison) + refused(run),
            refused_by_us=refused(run),
            workers_restarted=run.site.restarts,
            purges=operator.purges,
            workers_hung=operator.hung,
            seconds_to_converge=converged,
        )
    )

"""Prometheus metrics: ``SIGNALQ = {"METRICS": True}``, and ``path("metrics", signalq.metrics.view)`` among the urls.

Counters listen to signalq's own signals in each process; lag and numbers are asked of the outbox when somebody looks.
With several processes set PROMETHEUS_MULTIPROC_DIR, as prometheus-client has it: they share what they count there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess as _multiprocess,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from . import signals
from .flow.overview import Flow, flow

logger = logging.getLogger("signalq.metrics")

multiprocess: Any = _multiprocess
"""It has no types."""
MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Seconds."""

captured = Counter("signalq_captured", "Deliveries that were committed.", ["receiver"])
published = Counter("signalq_published", "Deliveries that the broker was told of.", ["receiver", "by"])
attempts = Counter("signalq_outcomes", "What became of deliveries in workers and relays.", ["receiver", "outcome"])
duration = Histogram("signalq_duration_seconds", "Attempts, from start to settled.", ["receiver"], buckets=BUCKETS)
leases_lost = Counter("signalq_leases_lost", "Attempts that were given to another worker.", ["receiver"])
refused = Counter("signalq_messages_refused", "Broker messages that were forged or damaged.")
rounds = Counter("signalq_relay_rounds", "Looks of relays at all outboxes.")
breaker = Gauge("signalq_breaker_open", "1: a process leaves the broker alone.", multiprocess_mode="livemax")


def connect() -> None:
    """Count from now on. Called by AppConfig.ready where the setting METRICS is True."""
    for signal, listener in _COUNTED.items():
        signal.connect(listener, dispatch_uid="signalq.metrics")


def disconnect() -> None:
    """Count no longer."""
    for signal in _COUNTED:
        signal.disconnect(dispatch_uid="signalq.metrics")


def _captured(sender: Any, **kwargs: Any) -> None:
    captured.labels(sender.name).inc()


def _published(sender: Any, again: bool, **kwargs: Any) -> None:
    published.labels(sender.name, "relay" if again else "commit").inc()


def _settled(sender: Any, outcome: Any, duration: float | None, **kwargs: Any) -> None:
    attempts.labels(sender.name, outcome.result.value).inc()
    if duration is not None:
        _observe(sender.name, duration)


def _observe(name: str, seconds: float) -> None:
    duration.labels(name).observe(seconds)


def _lease_lost(sender: Any, **kwargs: Any) -> None:
    leases_lost.labels(sender.name).inc()


def _refused(**kwargs: Any) -> None:
    refused.inc()


def _swept(**kwargs: Any) -> None:
    rounds.inc()


def _breaker(open: bool, **kwargs: Any) -> None:  # noqa: A002 - the signal's argument
    breaker.set(open)


_COUNTED: dict[Signal, Callable[..., None]] = {
    signals.delivery_captured: _captured,
    signals.delivery_published: _published,
    signals.delivery_done: _settled,
    signals.delivery_retried: _settled,
    signals.delivery_dead: _settled,
    signals.delivery_discarded: _settled,
    signals.lease_lost: _lease_lost,
    signals.message_refused: _refused,
    signals.relay_swept: _swept,
    signals.breaker_changed: _breaker,
}


class OutboxCollector(Collector):
    """What the outboxes hold at this moment: a few bounded queries for each look."""

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        return _families(flow())

    def describe(self) -> list[Metric]:
        """Nothing, so that registering it asks no database."""
        return []


def _families(found: Flow) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "signalq_lag_seconds", "For how long the longest overdue delivery is due.", labels=["receiver", "queue"]
    )
    numbers = GaugeMetricFamily("signalq_deliveries", "Deliveries in a state.", labels=["receiver", "state"])
    parked = GaugeMetricFamily("signalq_parked", "Deliveries for a receiver unknown here.", labels=["receiver"])
    up = GaugeMetricFamily("signalq_database_up", "0: this outbox did not answer.", labels=["database"])
    for receiver in found.receivers:
        lag.add_metric([receiver.name, receiver.queue], receiver.oldest_due or 0.0)
        for state in ("waiting", "queued", "running", "dead"):
            numbers.add_metric([receiver.name, state], getattr(receiver, state))
        parked.add_metric([receiver.name], receiver.outstanding if receiver.parked else 0)
    for using in (*found.aliases, *found.away):
        up.add_metric([using], float(using not in found.away))
    yield from (lag, numbers, parked, up)


class _ThisProcess(Collector):
    """What prometheus-client keeps by default, the project's own metrics among it."""

    def collect(self) -> Iterator[Metric]:
        return iter(list(REGISTRY.collect()))

    def describe(self) -> list[Metric]:
        return []


def registry(*, outbox: bool = True) -> CollectorRegistry:
    """All there is to tell; ``outbox``: also what the databases say."""
    found = CollectorRegistry()
    if MULTIPROC_DIR in os.environ:
        multiprocess.MultiProcessCollector(found)
    else:
        found.register(_ThisProcess())
    if outbox:
        found.register(OutboxCollector())
    return found


@require_safe
def view(request: HttpRequest) -> HttpResponse:
    """For Prometheus. It asks for no login: let the web server keep others from it, or wrap it in a check of yours."""
    return HttpResponse(generate_latest(registry()), content_type=CONTENT_TYPE_LATEST)


def serve(port: int) -> None:
    """Serve what this worker's processes count on ``port``, without the outbox, from a thread."""
    if MULTIPROC_DIR not in os.environ:
        logger.warning("%s is not set: what the children of a prefork pool count is not shown.", MULTIPROC_DIR)
    try:
        start_http_server(port, registry=registry(outbox=False))
    except OSError as error:
        logger.error("No metrics on port %d (METRICS_PORT): %s. The worker works on.", port, error)


def process_ends() -> None:
    """What this process alone could know, whether its breaker is open, nobody knows any longer."""
    if MULTIPROC_DIR in os.environ:
        multiprocess.mark_process_dead(os.getpid())

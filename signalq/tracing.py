"""OpenTelemetry: one trace from the request through capture and publication to each attempt of the handler.

``SIGNALQ = {"TRACING": True}``. Names and attributes are those of OpenTelemetry's conventions for messaging:

- ``create <signal>``: an event is captured. Its context travels with the event.
- ``send <receiver>``: from the commit until the broker has the messages of one transaction.
- ``process <receiver>``: one attempt, until its outcome is written down. A child of ``create``, and linked to it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, NamedTuple

from opentelemetry import context as otel, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import capture, conf, publish, signals
from .context import current_delivery
from .event import Event, Result
from .naming import signal_name
from .wire import Item, Message

SYSTEM = "signalq"
HANDED_OVER = 10_000
"""Messages whose commit is remembered until the broker has them; what is left to a relay is forgotten."""

_propagator = TraceContextTextMapPropagator()
_capture, _send = capture.capture, publish.send


def connect() -> None:
    """Trace from now on. Called by AppConfig.ready where the setting TRACING is True."""
    capture.capture, publish.send = _create, _hand_over
    for signal, listener in _LISTENING.items():
        signal.connect(listener, dispatch_uid="signalq.tracing")


def disconnect() -> None:
    """Trace no longer."""
    capture.capture, publish.send = _capture, _send
    for signal in _LISTENING:
        signal.disconnect(dispatch_uid="signalq.tracing")


def _tracer() -> trace.Tracer:
    return trace.get_tracer("signalq")


def _attributes(operation: str, destination: str | None, **more: Any) -> dict[str, Any]:
    attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    if destination:
        attributes["messaging.destination.name"] = destination
    return {**attributes, **more}


# create


def _create(signal: Any, sender: Any, kwargs: Any, receivers: Any) -> Any:
    name, receivers = signal_name(signal), list(receivers)
    attributes = _attributes("create", name, **{"signalq.receivers": [receiver.name for receiver in receivers]})
    with _tracer().start_as_current_span(f"create {name}", kind=SpanKind.PRODUCER, attributes=attributes):
        return _capture(signal, sender, kwargs, receivers)


# send


@dataclass
class _Handover:
    """The messages of one transaction, on their way to the publisher's thread."""

    context: otel.Context
    started: int
    receivers: set[str]
    count: int
    left: int


_handed_over: OrderedDict[Hashable, _Handover] = OrderedDict()
_lock = threading.Lock()


def _hand_over(items: list[Item]) -> None:
    if items and conf.current().PUBLISH and trace.get_current_span().get_span_context().is_valid:
        receivers = {item.receiver for item in items}
        handover = _Handover(otel.get_current(), time.time_ns(), receivers, len(items), len(items))
        with _lock:
            _handed_over.update(dict.fromkeys(map(_key, items), handover))
            while len(_handed_over) > HANDED_OVER:
                _handed_over.popitem(last=False)
    _send(items)


def _key(item: Item) -> Hashable:
    return item.task_id if isinstance(item, Message) else (item.using, item.id)


def _published(using: str | None, pk: int | None, result_id: str | None, **kwargs: Any) -> None:
    with _lock:
        handover = _handed_over.pop(result_id or (using, pk), None)
        if handover is None:
            return
        handover.left -= 1
        if handover.left:
            return
    destination = next(iter(handover.receivers)) if len(handover.receivers) == 1 else None
    attributes = _attributes("send", destination, **{"signalq.receivers": sorted(handover.receivers)})
    if handover.count > 1:
        attributes["messaging.batch.message_count"] = handover.count
    _tracer().start_span(
        " ".join(filter(None, ["send", destination])),
        handover.context,
        SpanKind.CLIENT,  # the context that travels is create's
        attributes,
        start_time=handover.started,
    ).end()


# process

_spans: dict[int, Span] = {}


class _Attached(NamedTuple):
    """The delivery whose span is the current one; the one before it is there where tasks run eagerly."""

    key: int
    token: Token[otel.Context]
    before: _Attached | None


_attached: ContextVar[_Attached | None] = ContextVar("signalq_span", default=None)


def _started(sender: Any, delivery: Any, event: Event | Exception, **kwargs: Any) -> None:
    _leave_behind()
    carrier = event.context.get("trace") if isinstance(event, Event) else None
    parent = _propagator.extract(carrier or {}, otel.Context())
    creation = trace.get_current_span(parent).get_span_context()
    ids = {
        "messaging.message.id": delivery.result_id,
        "messaging.message.conversation_id": str(delivery.event_id),
        "signalq.attempt": delivery.attempt,
    }
    if delivery.pk is not None:
        ids["signalq.delivery"] = delivery.pk
    span = _spans[id(delivery)] = _tracer().start_span(
        f"process {sender.name}",
        parent,
        SpanKind.CONSUMER,
        _attributes("process", sender.name, **ids),
        links=[Link(creation)] if creation.is_valid else [],
    )
    # The events of a batch belong to several traces, and its handler to none of them.
    if sender.batch_size is None:
        token = otel.attach(trace.set_span_in_context(span, parent))
        _attached.set(_Attached(id(delivery), token, _attached.get()))


def _leave_behind() -> None:
    """The last delivery of this thread was told no outcome: its database was gone. Nothing is to become its child."""
    left = _attached.get()
    if left is not None and current_delivery() is None and (span := _spans.get(left.key)):
        _end(left.key, span)


def _settled(delivery: Any, outcome: Any = None, **kwargs: Any) -> None:
    span = _spans.get(id(delivery))
    if span is None:
        return  # nothing ran
    result = "lease lost" if outcome is None else outcome.result.value
    span.set_attribute("signalq.outcome", result)
    if result not in (Result.DONE.value, Result.DISCARDED.value):
        error = outcome.error if outcome else None
        kind = type(error).__qualname__ if error else result
        if error:
            with contextlib.suppress(Exception):  # its text is the user's, and there may be none
                span.record_exception(error)
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, kind))
    _end(id(delivery), span)


def _end(key: int, span: Span) -> None:
    del _spans[key]
    attached = _attached.get()
    if attached is not None and attached.key == key:
        _attached.set(attached.before)
        otel.detach(attached.token)
    span.end()


_OUTCOMES: Iterable[Any] = (
    signals.delivery_done,
    signals.delivery_retried,
    signals.delivery_dead,
    signals.delivery_discarded,
    signals.lease_lost,
)
_LISTENING: dict[Any, Callable[..., None]] = {
    signals.delivery_started: _started,
    signals.delivery_published: _published,
    **dict.fromkeys(_OUTCOMES, _settled),
}

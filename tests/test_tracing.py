"""OpenTelemetry: the spans of a delivery's way, as its SDK's in-memory exporter gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.db import connections, transaction
from django.db.models.signals import post_save
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from signalq import CaptureError, Discard, async_batch_receiver, async_receiver, publish, tracing, wire
from tests.steps import come_due, outbox, sweep, work
from tests.testapp.models import Author, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

CREATE = "create django.db.models.signals.post_save"


class Spans:
    """What was exported since, in the order of its beginning."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def names(self) -> list[str]:
        return [span.name for span in self.all()]

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]


@pytest.fixture
def spans(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Tracing is on, and the broker takes everything; a request's span is `with request(spans)`."""
    spans = Spans()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr(wire.Channel, "send", lambda self, items: None)
    monkeypatch.setattr(wire.Channel, "queue", lambda self, receiver: receiver)
    monkeypatch.setattr(wire.Channel, "depth", lambda self, queue: 0)
    monkeypatch.setattr(publish.publisher, "put", publish.Publisher()._send)
    tracing.connect()
    yield spans
    tracing.disconnect()
    assert not trace.get_current_span().get_span_context().is_valid, "a span was left behind"


def request(spans: Spans) -> Any:
    return spans.provider.get_tracer("web").start_as_current_span("GET /")


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def test_one_trace_from_the_request_to_the_handler(alias: str, spans: Spans) -> None:
    @async_receiver(post_save, sender=Author, name="traced")
    def traced(instance: Author, **kwargs: Any) -> None:
        spans.provider.get_tracer("handler").start_span("in the handler").end()

    with request(spans), transaction.atomic(using=alias):
        Author(name="Ada").save(using=alias)
    work(alias)
    assert spans.names() == ["GET /", CREATE, "send traced", "process traced", "in the handler"]
    web, create, send, process, inside = spans.all()
    assert len({span.context.trace_id for span in spans.all()}) == 1
    assert is_child(create, web)
    assert is_child(send, web)
    assert is_child(process, create)
    assert [link.context.span_id for link in process.links] == [create.context.span_id]
    assert is_child(inside, process)
    assert [span.kind for span in (create, send, process)] == [SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CONSUMER]
    row = outbox(alias).get()
    assert dict(process.attributes or {}) == {
        "messaging.system": "signalq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "traced",
        "messaging.message.id": row.result_id,
        "messaging.message.conversation_id": str(row.event_id),
        "signalq.delivery": row.pk,
        "signalq.attempt": 1,
        "signalq.outcome": "done",
    }
    assert process.status.status_code == StatusCode.UNSET


def test_a_retry_is_a_span_of_its_own_with_its_error(alias: str, spans: Spans) -> None:
    failures = [ValueError("not yet")]

    @async_receiver(post_save, sender=Author, name="traced")
    def traced(**kwargs: Any) -> None:
        if failures:
            raise failures.pop()

    Author(name="Ada").save(using=alias)
    work(alias)
    come_due(alias)
    sweep(alias)
    work(alias)
    first, second = spans.of("process traced")
    (create,) = spans.of(CREATE)
    assert is_child(first, create)
    assert is_child(second, create)
    assert [(span.attributes or {})["signalq.attempt"] for span in (first, second)] == [1, 2]
    assert (first.attributes or {})["signalq.outcome"] == "retry"
    assert (first.attributes or {})["error.type"] == "ValueError"
    assert first.status.status_code == StatusCode.ERROR
    assert [(event.attributes or {})["exception.message"] for event in first.events] == ["not yet"]
    assert second.status.status_code == StatusCode.UNSET


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (ValueError("no"), "dead", StatusCode.ERROR),
        (Discard("not wanted"), "discarded", StatusCode.UNSET),
    ],
)
def test_outcomes(alias: str, spans: Spans, error: Exception, outcome: str, status: StatusCode) -> None:
    @async_receiver(post_save, sender=Author, name="traced", max_retries=0)
    def traced(**kwargs: Any) -> None:
        raise error

    Author(name="Ada").save(using=alias)
    work(alias)
    (span,) = spans.of("process traced")
    assert ((span.attributes or {})["signalq.outcome"], span.status.status_code) == (outcome, status)


def test_a_lost_lease_is_an_error(alias: str, spans: Spans) -> None:
    @async_receiver(post_save, sender=Author, name="traced")
    def traced(**kwargs: Any) -> None:
        outbox(alias).update(attempt=7)

    Author(name="Ada").save(using=alias)
    work(alias)
    (span,) = spans.of("process traced")
    assert (span.attributes or {})["error.type"] == "lease lost"
    assert span.status.status_code == StatusCode.ERROR


def test_a_cascade_stays_in_its_trace(alias: str, spans: Spans) -> None:
    @async_receiver(post_save, sender=Author, name="causes")
    def causes(**kwargs: Any) -> None:
        Tag(name="from the handler").save(using=alias)

    @async_receiver(post_save, sender=Tag, name="follows")
    def follows(**kwargs: Any) -> None: ...

    with request(spans):
        Author(name="Ada").save(using=alias)
    work(alias)
    work(alias)
    assert len({span.context.trace_id for span in spans.all()}) == 1
    (causing,), (following,) = spans.of("process causes"), spans.of("process follows")
    second = spans.of(CREATE)[1]
    assert is_child(second, causing)
    assert is_child(following, second)
    (sent,) = spans.of("send follows")
    assert is_child(sent, causing)


def test_the_messages_of_a_transaction_are_sent_together(alias: str, spans: Spans) -> None:
    for name in ("one", "two"):
        async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    with request(spans), transaction.atomic(using=alias):
        for _ in range(3):
            Author(name="Ada").save(using=alias)
    (sent,) = spans.of("send")
    assert (sent.attributes or {})["messaging.batch.message_count"] == 6
    assert (sent.attributes or {})["signalq.receivers"] == ("one", "two")
    assert tracing._handed_over == {}


def test_what_a_relay_has_to_publish_was_not_sent(alias: str, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    async_receiver(post_save, sender=Author, name="traced")(lambda **kwargs: None)
    monkeypatch.setattr(publish.publisher, "put", lambda items: None)
    monkeypatch.setattr(tracing, "HANDED_OVER", 2)
    with request(spans):
        for _ in range(5):
            Author(name="Ada").save(using=alias)
    assert len(tracing._handed_over) == 2
    tracing._handed_over.clear()
    come_due(alias)
    sweep(alias)
    work(alias)
    assert spans.of("send traced") == []
    assert len({span.context.trace_id for span in spans.all()}) == 1
    assert len(spans.of("process traced")) == 5


def test_each_event_of_a_batch_is_processed_in_its_own_trace(alias: str, spans: Spans) -> None:
    @async_batch_receiver(post_save, sender=Author, name="traced")
    def traced(events: list[Any]) -> None: ...

    for name in ("Ada", "Grace"):
        with request(spans):
            Author(name=name).save(using=alias)
    work(alias)
    processed, created = spans.of("process traced"), spans.of(CREATE)
    assert [is_child(*pair) for pair in zip(processed, created, strict=True)] == [True, True]
    assert len({span.context.trace_id for span in processed}) == 2


def test_transient_deliveries_are_traced(every_alias: list[str], spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    monkeypatch.setattr(publish.publisher, "put", publish.Publisher()._send)
    app = celery.Celery("tests", broker="memory://", set_as_current=True)
    app.conf.task_always_eager = True
    app.set_default()
    failures = [ValueError("not yet")]

    @async_receiver(post_save, sender=Author, name="traced", durable=False, retry_backoff=0)
    def traced(**kwargs: Any) -> None:
        if failures:
            raise failures.pop()

    with request(spans):
        Author.objects.create(name="Ada")
    app.close()
    assert len({span.context.trace_id for span in spans.all()}) == 1
    assert [(span.attributes or {})["signalq.outcome"] for span in spans.of("process traced")] == ["retry", "done"]
    assert all("signalq.delivery" not in (span.attributes or {}) for span in spans.of("process traced"))
    assert len(spans.of("send traced")) == 1


def test_a_capture_that_fails_is_recorded(alias: str, spans: Spans) -> None:
    @async_receiver(post_save, sender=Author, name="traced")
    def traced(**kwargs: Any) -> None: ...

    with pytest.raises(CaptureError), request(spans), transaction.atomic(using=alias):
        post_save.send(Author, instance=Author(pk=1), odd=object(), using=alias)
    (span,) = spans.of(CREATE)
    assert span.status.status_code == StatusCode.ERROR


def test_what_was_told_no_outcome_has_no_children(alias: str, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is gone when the outcome is to be written: the lease brings the delivery back."""

    @async_receiver(post_save, sender=Author, name="traced", max_retries=0)
    def traced(**kwargs: Any) -> None:
        raise ValueError("no")

    for name in ("Ada", "Grace"):
        Author(name=name).save(using=alias)
    with monkeypatch.context() as patched:
        patched.setattr("signalq.execute.finish", _gone)
        with pytest.raises(ConnectionError):
            work(alias)
    work(alias)
    first, second = spans.of("process traced")
    assert "signalq.outcome" not in (first.attributes or {})
    assert (second.attributes or {})["signalq.outcome"] == "dead"
    assert first.context.trace_id != second.context.trace_id


def _gone(*args: Any) -> None:
    raise ConnectionError


def test_it_costs_nothing_where_it_is_off(alias: str) -> None:
    from signalq import capture, signals

    assert capture.capture.__module__ == "signalq.capture"
    assert publish.send.__module__ == "signalq.publish"
    assert signals.delivery_published.receivers == []
    assert signals.delivery_captured.receivers == []
    connections[alias].close()

"""A site that is watched in every way: what it tells goes into files, where the test reads it."""

import json
import os
from pathlib import Path
from typing import Any

import sentry_sdk
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from sentry_sdk.transport import Transport

from tests.integration.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as TESTED_APPS

INSTALLED_APPS = [*TESTED_APPS, "tests.integration.watched"]
SIGNALQ: dict[str, object] = {
    "METRICS": True,
    "METRICS_PORT": int(os.environ.get("METRICS_PORT", "0")),
    "TRACING": True,
}

CELERY_WORKER_ENABLE_REMOTE_CONTROL = False

SCRATCH = Path(os.environ["SIGNALQ_TEST_SCRATCH"])


def note(kind: str, text: str) -> None:
    with (SCRATCH / f"{kind}.jsonl").open("a") as file:
        file.write(text + "\n")


class _Lines:
    """A file for the exporter; appended to line by line, by every process."""

    def write(self, text: str) -> None:
        note("spans", text)

    def flush(self) -> None: ...


_provider = TracerProvider()
_exporter = ConsoleSpanExporter(out=_Lines(), formatter=lambda span: span.to_json(indent=None))  # type: ignore[arg-type]
_provider.add_span_processor(SimpleSpanProcessor(_exporter))
trace.set_tracer_provider(_provider)


class _Kept(Transport):
    """In place of Sentry's server."""

    def capture_envelope(self, envelope: Any) -> None:
        if event := envelope.get_event():
            note("sentry", json.dumps(event, default=str))


sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=_Kept)

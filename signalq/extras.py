"""What a project may have beside Django and Celery: Prometheus, OpenTelemetry, Sentry. Nothing is imported unasked."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from . import conf

_ASKED = {"METRICS": ("metrics", "prometheus"), "TRACING": ("tracing", "opentelemetry")}
"""The setting: its module, and the extra that it needs."""


def connect() -> None:
    """Connect what the settings ask for; Sentry, where the project has loaded it. Called by AppConfig.ready.

    Raises ImproperlyConfigured where a library is missing.
    """
    for setting, (module, extra) in _ASKED.items():
        if getattr(conf.current(), setting):
            _load(setting, module, extra).connect()
    if "sentry_sdk" in sys.modules:
        import_module("signalq.sentry").connect()


def _load(setting: str, module: str, extra: str) -> Any:
    try:
        return import_module(f"signalq.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("signalq"):
            raise
        raise ImproperlyConfigured(
            f"SIGNALQ[{setting!r}] is True, but {error.name} is not installed: pip install signalq[{extra}]."
        ) from error


def serve_metrics() -> None:
    """A worker is ready."""
    settings = conf.current()
    if settings.METRICS and settings.METRICS_PORT:
        import_module("signalq.metrics").serve(settings.METRICS_PORT)


def process_ends() -> None:
    """A worker's child ends."""
    if conf.current().METRICS:
        import_module("signalq.metrics").process_ends()

"""The contexts that come with signalq: user, language, time zone, trace. Only what is not the default is carried."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import re
import sys
import zoneinfo
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db.models import Model
from django.utils import timezone, translation

from .context import Source, current_delivery, register, register_context
from .event import Reference

if TYPE_CHECKING:
    from django.http import HttpRequest

# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags; all zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)
_TRACESTATE_LENGTH = 512
_TRACEPARENT_LENGTH = 128
Trace = dict[str, str]


class _Actor:
    """The user of an event whose handler runs, loaded when somebody asks."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._loaded: list[Model | None] = []

    def user(self) -> Model | None:
        from django.apps import apps

        if not self._loaded:
            model = apps.get_model(self.reference.model)
            rows = model._base_manager.using(self.reference.using)
            self._loaded = [rows.filter(pk=self.reference.pk).first()]
        return self._loaded[0]


_request: ContextVar[HttpRequest | None] = ContextVar("signalq_request", default=None)
_actor: ContextVar[_Actor | None] = ContextVar("signalq_actor", default=None)
_trace: ContextVar[Trace | None] = ContextVar("signalq_trace", default=None)


@contextlib.contextmanager
def request_active(request: HttpRequest) -> Iterator[None]:
    """Take user and trace from ``request``, when they are needed."""
    before = _request.get()
    _request.set(request)
    try:
        yield
    finally:
        _request.set(before)


def current_user() -> Any:
    """Who caused what runs now: the request's user, or in a handler the one of the request that its event came from.

    None if nobody is logged in, or the user has been deleted since. Loaded at the first call; in a coroutine use
    ``acurrent_user``. Needs ``signalq.middleware.ContextMiddleware``.
    """
    actor = _actor.get()
    return _request_user() if actor is None else actor.user()


async def acurrent_user() -> Any:
    """``current_user`` for coroutines."""
    return await sync_to_async(current_user)()


def current_trace() -> Trace | None:
    """The W3C trace context that events take along: "traceparent", and "tracestate" if there is one."""
    return _otel_trace() or _trace.get() or _request_trace()


def _request_user() -> Any:
    request = _request.get()
    user = getattr(request, "user", None)
    # Asking a lazy user loads it: once a request, and only in one that has an event or has asked itself.
    return user if user is not None and user.is_authenticated else None


def _capture_user() -> Any:
    actor = _actor.get()
    if actor is not None:
        return actor.reference
    user = None if _request.get() is None else _request_user()
    # Authentication may bring users that are no rows.
    return user if isinstance(user, Model) and user.pk is not None else None


@contextlib.contextmanager
def _activate_user(reference: Reference) -> Iterator[None]:
    before = _actor.get()
    _actor.set(_Actor(reference))
    try:
        yield
    finally:
        _actor.set(before)


def _is_inherited(name: str) -> bool:
    cause = current_delivery()
    return cause is not None and name in cause.event.context


def _capture_language() -> str | None:
    language = translation.get_language()
    # In a handler that was given a language the default is a choice, too.
    return None if language == settings.LANGUAGE_CODE and not _is_inherited("language") else language


def _capture_timezone() -> str | float | None:
    current: dt.tzinfo = timezone.get_current_timezone()
    if current is timezone.get_default_timezone() and not _is_inherited("timezone"):
        return None
    if isinstance(current, dt.timezone):
        return current.utcoffset(None).total_seconds()
    return str(current)  # the key of a ZoneInfo, and of whatever else knows the names


def _activate_timezone(value: str | float) -> AbstractContextManager[Any]:
    zone = zoneinfo.ZoneInfo(value) if isinstance(value, str) else dt.timezone(dt.timedelta(seconds=value))
    return timezone.override(zone)


def _request_trace() -> Trace | None:
    request = _request.get()
    if request is None:
        return None
    # Whoever sends the request writes these.
    parent = request.headers.get("traceparent", "")
    if len(parent) > _TRACEPARENT_LENGTH or not _TRACEPARENT.fullmatch(parent):
        return None
    state = request.headers.get("tracestate", "")
    return {"traceparent": parent, **({"tracestate": state} if 0 < len(state) <= _TRACESTATE_LENGTH else {})}


def _otel_trace() -> Trace | None:
    if "opentelemetry.trace" not in sys.modules:
        return None  # whoever traces has imported it
    carrier: Trace = {}
    _propagator().inject(carrier)
    return carrier or None


def _trace_id(trace: Any, context: Any) -> int:
    return int(trace.get_current_span(context).get_span_context().trace_id)


def _propagator() -> Any:
    return importlib.import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()


@contextlib.contextmanager
def _activate_trace(carrier: Trace) -> Iterator[None]:
    before = _trace.get()
    _trace.set(carrier)
    try:
        with _otel_active(carrier):
            yield
    finally:
        _trace.set(before)


@contextlib.contextmanager
def _otel_active(carrier: Trace) -> Iterator[None]:
    if "opentelemetry.trace" not in sys.modules:
        yield
        return
    context, trace = map(importlib.import_module, ("opentelemetry.context", "opentelemetry.trace"))
    brought = _propagator().extract(carrier)
    if _trace_id(trace, None) == _trace_id(trace, brought):
        yield  # a span of that trace is active, such as tracing.py's: it is the nearer parent
        return
    token = context.attach(brought)
    try:
        yield
    finally:
        context.detach(token)


register_context("user", _capture_user, _activate_user)
register("language", Source(_capture_language, translation.override, steady=True))
register("timezone", Source(_capture_timezone, _activate_timezone, steady=True))
register("trace", Source(current_trace, _activate_trace, steady=True))

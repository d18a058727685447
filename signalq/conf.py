"""The settings: ``SIGNALQ = {...}`` in Django's settings, read live so that ``override_settings`` works."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import empty

KIB = 1024


@dataclass(frozen=True)
class Settings:
    """Every setting with its default. Durations are in seconds and accept a timedelta; sizes are in bytes."""

    RELAY: bool = True
    """Each Celery worker runs a relay in a child process of its own."""
    PUBLISH: bool = True
    """False: never touch the broker (tests); the rows are still written."""
    LEASE: float = 20.0
    """A worker that dies is noticed after this long."""
    GRACE: float = 10.0
    """A queued delivery that nobody claimed is published again after this, then less and less often."""
    CHUNK: int = 100
    """Deliveries in one message, at the most."""
    RETAIN_DONE: float = 24 * 3600.0
    """Done and discarded rows are pruned by the relay after this; dead ones stay."""
    MAX_PAYLOAD: int = 1024 * KIB
    """The size of one durable event."""
    MAX_PAYLOAD_TRANSIENT: int = 64 * KIB
    """The size of one transient event."""
    ORDERED_HOLD: float = 24 * 3600.0
    """For this long a failing delivery of an ordered receiver holds back those of its key that come after it."""
    MAX_DEPTH: int = 10
    """How many events may cause each other in a row."""
    METRICS: bool = False
    """Count for Prometheus; needs ``signalq[prometheus]``. Read when the process starts."""
    METRICS_PORT: int = 0
    """Each worker serves what its processes count on this port, too; 0: on none."""
    TRACING: bool = False
    """Spans for OpenTelemetry; needs ``signalq[opentelemetry]``. Read when the process starts."""
    SENSITIVE_FIELDS: tuple[str, ...] = (
        *("api_key", "apikey", "authorization", "cookie", "credential", "csrf", "passphrase", "passw"),
        *("private_key", "secret", "session_key", "signature", "token"),
    )
    """The admin masks what has one of these in its name; upper and lower case are one."""


AT_LEAST = {"CHUNK": 1, "LEASE": 0.1}
"""The least that makes sense; 0 for any other number."""

_KNOWN = {field.name: field.default for field in fields(Settings)}
_cached: tuple[object, Settings] = (None, Settings())


def current() -> Settings:
    """The settings as they are now.

    Raises ImproperlyConfigured for an unknown name or a value of the wrong kind.
    """
    global _cached
    # The lazy object takes long to say that there is no such setting, so what it wraps is asked where it can be.
    found: Any = vars(django_settings).get("_wrapped", empty)
    given = getattr(django_settings if found is empty else found, "SIGNALQ", None)
    known, settings = _cached
    if known != given:
        settings = _read({} if given is None else given)
        _cached = (given and dict(given), settings)  # a copy: a test may change the dict in place
    return settings


def _read(given: Any) -> Settings:
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"SIGNALQ must be a dict, not {type(given).__name__}.")
    return Settings(**{name: _value(name, value) for name, value in given.items()})


def _value(name: str, value: Any) -> Any:
    if name not in _KNOWN:
        near = difflib.get_close_matches(str(name).upper(), _KNOWN, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(_KNOWN)}."
        raise ImproperlyConfigured(f"SIGNALQ has no setting {name!r}.{hint}")
    default = _KNOWN[name]
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise ImproperlyConfigured(f"SIGNALQ[{name!r}] must be True or False, not {value!r}.")
    if isinstance(default, tuple):
        if isinstance(value, list | tuple | set) and all(isinstance(item, str) and item for item in value):
            return tuple(value)
        raise ImproperlyConfigured(f"SIGNALQ[{name!r}] must be a list of texts, not {value!r}.")
    if isinstance(value, timedelta) and isinstance(default, float):
        value = value.total_seconds()
    kind = int | float if isinstance(default, float) else int
    least = AT_LEAST.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf:
        unit = "seconds or a timedelta" if isinstance(default, float) else "a whole number"
        raise ImproperlyConfigured(f"SIGNALQ[{name!r}] must be {unit}, at least {least:g}, not {value!r}.")
    return float(value) if isinstance(default, float) else value

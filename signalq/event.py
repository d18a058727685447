"""The items that flow: an Event on its way to a receiver, and the Outcome that it had there."""

from __future__ import annotations

import enum
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpHeaders


@dataclass(frozen=True, slots=True)
class Reference:
    """A row by its address; it is loaded when the handler runs."""

    model: str
    """The model's label, as in ``"shop.order"``."""
    pk: Any
    using: str
    """The alias of the database that holds it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row as it was: the values of its concrete fields by attribute name."""

    model: str
    using: str
    fields: Mapping[str, Any]
    adding: bool = False
    """True for a row that was not in the database yet."""


@dataclass(frozen=True, slots=True)
class ModelClass:
    """A model class, by its label; ``rows`` stands for a QuerySet of it, which arrives empty."""

    label: str
    rows: bool = False


@dataclass(frozen=True, slots=True)
class FieldText:
    """A value of a type that only its field knows, in the field's own text (``value_to_string``)."""

    model: str
    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Counterpart:
    """What each process has one of its own, such as an AppConfig: its kind, and its name among them."""

    kind: str
    name: Any = None


class Old(enum.Enum):
    """What a change may have in the place of a value."""

    UNKNOWN = "unknown"
    """It could not be had without a query: counts as changed."""
    ABSENT = "absent"
    """There was no row."""


@dataclass(frozen=True)
class RequestSnapshot:
    """An ``HttpRequest`` as a handler gets it; its attributes read like the request's."""

    method: str | None
    path: str
    user: Any
    """The user, loaded; ``AnonymousUser``; None if the request had not looked at its user, or the row is gone."""
    META: Mapping[str, str]
    """``REMOTE_ADDR`` and ``HTTP_USER_AGENT``, if they were there."""

    @property
    def headers(self) -> HttpHeaders:
        """``User-Agent``, if it was there."""
        return HttpHeaders(dict(self.META))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"A request's snapshot has no {name!r}, only method, path, user, META and headers. "
            "Send what else the handler needs as an argument of a signal of your own."
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One sending of a signal, frozen."""

    id: uuid.UUID
    """UUIDv7: sorts by the time of capture."""
    signal: str
    """The signal's dotted name, as in ``"django.db.models.signals.post_save"``."""
    sender: Any
    arguments: Mapping[str, Any]
    """What the signal was sent with, besides its sender."""
    parent: uuid.UUID | None = None
    """The event whose handler sent this signal."""
    chain: tuple[str, ...] = ()
    """The names of the receivers that led to this event, the first cause first."""
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Old and new value of each field that a ``Changed`` watches and that changed; by field name."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What travels with it besides its arguments: user, language, trace and the like."""


class Result(enum.Enum):
    """What became of one attempt."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, for settle to write down."""

    result: Result
    countdown: float = 0.0
    """Seconds until the next attempt, for RETRY."""
    error: BaseException | None = None
    """Why it is not DONE."""
    value: Any = None
    """What the handler returned, for DONE."""
    counts: bool = True
    """False where the attempt is none of the handler's, for RETRY."""


def delivery_id(event_id: uuid.UUID, receiver: str) -> uuid.UUID:
    """One for each event and receiver, and always the same: an event may have several receivers."""
    return uuid.uuid5(event_id, receiver)


def uuid7() -> uuid.UUID:
    """A time-ordered UUID (RFC 9562, version 7): 48 bits of Unix milliseconds, then random bits."""
    return uuid.UUID(uuid7_text())


def uuid7_text() -> str:
    """``str(uuid7())``, in half of its time."""
    moment, noise = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10).hex()
    # The version and, in the variant's two bits, "10": of the digit that they are in two bits are random.
    variant = "89ab"[int(noise[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{noise[:3]}-{variant}{noise[4:7]}-{noise[8:]}"

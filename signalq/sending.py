"""One sending of a signal, on its way to being an item for each of its receivers."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.db.models.base import ModelBase
from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from . import codec, conf, context, outbox, tracking
from .context import CurrentDelivery, current_delivery
from .event import Reference, uuid7_text
from .exceptions import CaptureError, CascadeError
from .fields import has_primary_key, primary_key
from .freeze import freeze, freeze_arguments, written_to
from .naming import global_name, signal_name
from .texts import told

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

COLUMN = 255
"""Characters that the outbox's text columns hold; anything longer is kept as its hash."""


class Sending:
    """One sending of a signal: what is the same for all of its receivers, or for some."""

    def __init__(self, signal: Signal, sender: Any, kwargs: dict[str, Any]) -> None:
        self.signal, self.sender, self.kwargs = signal, sender, kwargs
        self.id = uuid7_text()
        self.name, self.head, self.label = _origin(signal, sender)
        self.using = alias_of(kwargs)
        self.is_of_model = isinstance(signal, ModelSignal)
        self.subject: Any = kwargs.get("instance")
        subject: Any = self.subject
        self.has_pk = isinstance(subject, Model) and has_primary_key(subject)
        self.object_pk = _column(subject.pk) if self.has_pk else ""
        self.connection = connections[self.using or DEFAULT_DB_ALIAS]
        self.context = context.captured(outbox.last_context(self.connection))
        self._texts: dict[tuple[Any, ...], str] = {}

    def item(self, receiver: Receiver) -> outbox.Item:
        """What ``receiver`` gets of it."""
        options = receiver.options
        shape = (options.omit, options.snapshot)
        text = self._texts.get(shape)
        if text is None:
            text = self._texts[shape] = self._text(*shape)
        _check_size(receiver, text)
        return outbox.Item(
            receiver=receiver.name,
            durable=options.durable,
            alone=receiver.travels_alone,
            countdown=options.countdown if options.coalesce is None else options.coalesce,
            expires=options.expires,
            id=self.id,
            signal=self.name,
            sender=self.label,
            object_pk=self.object_pk,
            key=self._key(receiver) if options.ordered or options.coalesce is not None else "",
            payload=text,
        )

    def _text(self, omit: tuple[str, ...], snapshot: bool | tuple[str, ...]) -> str:
        """The event, encoded."""
        arguments = {name: value for name, value in self.kwargs.items() if name not in omit}
        using = self.using if self.is_of_model else None
        freeze_arguments(self.signal, arguments, using, snapshot)
        subject: Any = self.subject
        is_there = arguments.get("instance") is subject
        if is_there and using and self.has_pk and not subject._state.adding:
            # What freeze() comes to, sooner.
            arguments["instance"] = Reference(subject._meta.label_lower, primary_key(subject), using)
        cause = current_delivery()
        rest = {
            "changes": tracking.told(self.sender, self.kwargs) if self.is_of_model else {},
            "context": self.context.values,
        }
        return codec.join(
            self.id,
            self.head,
            self.name,
            arguments,
            str(cause.event.id) if cause else None,
            _chain(cause) if cause else (),
            rest,
            lambda value: freeze(value, subject, using),
        )

    def connection_for(self, receiver: Receiver) -> BaseDatabaseWrapper:
        """The one whose transaction its event for ``receiver`` belongs to."""
        if self.using:
            return self.connection
        if receiver.options.using:
            return connections[receiver.options.using]
        return connections[written_to(self.subject)] if isinstance(self.subject, Model) else self.connection

    def _key(self, receiver: Receiver) -> str:
        """What "one object" is for an ordered or coalescing receiver."""
        key, subject = receiver.options.key, self.subject
        if key is None:
            # An object without a primary key is like no other: it has no order, and nothing to be merged with.
            return _column(f"{subject._meta.label_lower}:{_text(subject.pk)}") if self.has_pk else ""
        try:
            if callable(key):
                return _column(key(signal=self.signal, sender=self.sender, **self.kwargs))
            return _column(getattr(subject, key))
        except Exception as error:
            raise CaptureError(f"key= of {receiver.name} raised {told(error)}") from error


def _origin(signal: Signal, sender: Any) -> tuple[str, str, str]:
    """The signal's name, the part of the event's text for both, and the sender's column."""
    # Models live as long as the process; of any other sender nobody knows whether it stays the same.
    return _origin_of_model(signal, sender) if type(sender) is ModelBase else _looked_up(signal, sender)


def _looked_up(signal: Signal, sender: Any) -> tuple[str, str, str]:
    name = signal_name(signal)
    return name, codec.head(name, sender, freeze), _column(_label(sender))


_origin_of_model = functools.lru_cache(maxsize=1_000)(_looked_up)


def _chain(cause: CurrentDelivery) -> tuple[str, ...]:
    """The receivers that led here. Raises CascadeError if there are too many."""
    chain = (*cause.event.chain, cause.receiver)
    if len(chain) > conf.current().MAX_DEPTH:
        raise CascadeError(
            f"Handlers cause each other's events {len(chain)} deep, MAX_DEPTH is {conf.current().MAX_DEPTH}: "
            f"{' -> '.join(chain)}. Use when=..., or queryset.update() in the handler, which sends no signal."
        )
    return chain


def alias_of(kwargs: dict[str, Any]) -> str | None:
    """The alias that the signal names; a custom signal may mean something else by ``using``."""
    using = kwargs.get("using")
    return using if isinstance(using, str) and using in connections.settings else None


def _check_size(receiver: Receiver, text: str) -> None:
    settings = conf.current()
    name = "MAX_PAYLOAD" if receiver.options.durable else "MAX_PAYLOAD_TRANSIENT"
    limit = getattr(settings, name)
    if len(text) > limit:
        raise CaptureError(
            f"The event for {receiver.name} is {len(text):,} bytes, {name} is {limit:,}: "
            f"leave an argument out with omit=[...], send a reference to it, or raise SIGNALQ['{name}']."
        )


def _label(sender: Any) -> str:
    if isinstance(sender, type) and issubclass(sender, Model):
        return sender._meta.label_lower
    if sender is None or isinstance(sender, str):
        return sender or ""
    if isinstance(sender, AppConfig):
        return sender.label
    kind = type(sender)
    # Not str(sender), which is the user's: it may show personal data, cost a query, or fail.
    return global_name(sender) or f"{kind.__module__}.{kind.__qualname__}"


def _column(value: Any) -> str:
    """``value`` as text that every database's text column takes."""
    text = _text(value)
    if len(text) <= COLUMN and text.isprintable():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:
        # Python has no decimal text for an integer of more than 4,300 digits.
        return codec.dumps(value, freeze)

"""``Changed``: a condition on what a save changes, and the fields that it needs to be known by."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, Model, signals as model_signals
from django.dispatch import Signal

from . import tracking
from .conditions import Condition
from .event import Old
from .exceptions import RegistrationError

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

SIGNALS = (model_signals.post_save, model_signals.pre_save)


class _Any(enum.Enum):
    ANY = "any"


ANY = _Any.ANY
"""Stands for every value in ``Changed(from_=..., to=...)``, where None means None."""


class Changed(Condition):
    """True for a save that writes a new value into one of ``fields``.

    ``fields`` are names of the sender's concrete fields; a foreign key's may be "author" or "author_id". ``from_`` and
    ``to`` ask for the old and the new value: ``Changed("status", from_="draft", to="paid")``; a foreign key's is the
    other row, or its key. Works in ``when=`` of ``post_save`` and ``pre_save`` receivers with a model as their sender.

    A row that is inserted changes every field from ABSENT. Where the old value is not known (an instance made by hand
    for an existing row, unpickled, or with a deferred field that was set before it was loaded) it is UNKNOWN and
    counts as changed, from whatever ``from_`` asks for: better one event too many than one too few.

    Raises TypeError without a field; RegistrationError for a wrong one as soon as the sender is known.
    """

    def __init__(self, *fields: str, from_: Any = ANY, to: Any = ANY) -> None:
        if not fields or not all(isinstance(field, str) and field for field in fields):
            raise TypeError(f'Changed{fields!r} needs names of fields, as in Changed("status", to="paid").')
        self.fields, self.from_, self.to = fields, from_, to

    def __repr__(self) -> str:
        wanted = [f"{name}={value!r}" for name, value in (("from_", self.from_), ("to", self.to)) if value is not ANY]
        return f"Changed({', '.join([*map(repr, self.fields), *wanted])})"

    def __call__(self, **kwargs: Any) -> bool:
        watched = tracking.watched_by(kwargs["sender"])
        if watched is None or not all(field in watched.names for field in self.fields):
            raise LookupError(
                f"{self!r} is not known to its receiver, so that no old value is: put it into when= itself, "
                "combined by & | ~, and not into a function."
            )
        changes = tracking.changes(kwargs["sender"], kwargs)
        return any(
            self._fits(watched.fields[name].field, *changes[name])
            for name in (watched.names[field] for field in self.fields)
            if name in changes
        )

    def _fits(self, field: Field[Any, Any], old: Any, new: Any) -> bool:
        return _matches(field, self.from_, old) and _matches(field, self.to, new)


def _matches(field: Field[Any, Any], wanted: Any, value: Any) -> bool:
    if wanted is ANY or value is Old.UNKNOWN:
        return True
    if isinstance(wanted, Model) and field.remote_field:
        wanted = getattr(wanted, field.target_field.attname)  # type: ignore[attr-defined]
    return bool(value == wanted)


def conditions(when: Callable[..., object] | None) -> Iterator[Changed]:
    """Every ``Changed`` in ``when``, however deep."""
    if isinstance(when, Changed):
        yield when
    for part in getattr(when, "parts", ()) if isinstance(when, Condition) else ():
        yield from conditions(part)


def check(receiver: AsyncReceiver[..., Any]) -> None:
    """Raise RegistrationError for a ``Changed`` in its ``when=`` that can never be told, where senders are known."""
    for signal in receiver.signals.values():
        for sender in receiver.options.senders:
            _fields(receiver, signal, sender)


def watch(receiver: AsyncReceiver[..., Any], signal: Signal, sender: Any) -> None:
    """Have the old values known that ``receiver`` asks for in its ``when=``. Raises as ``check``."""
    if fields := _fields(receiver, signal, sender):
        tracking.watch(sender, fields, (receiver, signal))


def unwatch(receiver: AsyncReceiver[..., Any], signal: Signal, sender: Any) -> None:
    """The inverse of ``watch``."""
    if isinstance(sender, type):  # others may have no hash
        tracking.unwatch(sender, (receiver, signal))


def _fields(receiver: AsyncReceiver[..., Any], signal: Signal, sender: Any) -> dict[str, Field[Any, Any]]:
    names = [field for condition in conditions(receiver.options.when) for field in condition.fields]
    if not names or isinstance(sender, str):  # a lazy sender comes again as its model
        return {}
    if signal not in SIGNALS:
        raise RegistrationError(
            f"{receiver.name} has Changed({', '.join(map(repr, names))}) in when=, which only post_save and pre_save "
            "can tell: give its other signals a receiver of their own."
        )
    if not (isinstance(sender, type) and issubclass(sender, Model)):
        raise RegistrationError(
            f"{receiver.name} has Changed({', '.join(map(repr, names))}) in when=, which needs a model: "
            "pass sender=..., or a list of them."
        )
    return {name: _field(receiver.name, sender, name) for name in names}


def _field(receiver: str, model: type[Model], name: str) -> Field[Any, Any]:
    meta = model._meta
    found: Any
    try:
        found = meta.pk if name == "pk" else meta.get_field(name)
    except FieldDoesNotExist:
        found = next((field for field in meta.concrete_fields if field.attname == name), None)
    if found is None:
        known = sorted({text for field in meta.concrete_fields for text in (field.name, field.attname)})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
        raise RegistrationError(f"{receiver} watches {name!r}, which {meta.label} does not have; {hint}")
    if getattr(found, "many_to_many", False):
        raise RegistrationError(
            f"{receiver} watches {name!r} of {meta.label}, which no save changes: use m2m_changed for it."
        )
    if found not in meta.concrete_fields:
        raise RegistrationError(
            f"{receiver} watches {name!r} of {meta.label}, which is no column of its own: watch the fields behind it."
        )
    if getattr(found, "generated", False):
        raise RegistrationError(
            f"{receiver} watches {name!r} of {meta.label}, which the database computes: watch what it is computed from."
        )
    return cast("Field[Any, Any]", found)

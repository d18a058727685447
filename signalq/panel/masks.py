"""An event's arguments as a person may read them: secrets masked, by the names of what holds them."""

from __future__ import annotations

import inspect
import pprint
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.views.decorators import debug

from .. import conf
from ..event import Event, FieldText, Reference
from ..receivers import AsyncReceiver

MASK = "********************"
"""Django's own, as on its error pages."""
LONGEST = 20_000
"""Characters of one argument."""


class _Mask:
    def __repr__(self) -> str:
        return MASK


class _Text:
    """What is shown as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def arguments(event: Event, receiver: AsyncReceiver[..., Any] | None) -> list[tuple[str, str]]:
    """Name and text of each argument of ``event``, and of what travels with it.

    Masked are names that have one of ``SIGNALQ["SENSITIVE_FIELDS"]`` in them, at any depth, and the arguments that the
    handler's own ``@sensitive_variables`` names.
    """
    private = sensitive_variables(receiver.handler) if receiver else frozenset[str]()
    every = "__ALL__" in private
    values = {name: _Mask() if every or name in private else value for name, value in event.arguments.items()}
    shown = [(name, _shown(name, value)) for name, value in values.items()]
    shown += [(_("%(name)s (old, new)") % {"name": name}, _shown(name, value)) for name, value in event.changes.items()]
    return shown + [
        (_("context: %(name)s") % {"name": name}, _shown(name, value)) for name, value in event.context.items()
    ]


def is_sensitive(name: object) -> bool:
    """Whether what is called ``name`` is masked."""
    words = conf.current().SENSITIVE_FIELDS
    return isinstance(name, str) and any(word.lower() in name.lower() for word in words)


def sensitive_variables(handler: Callable[..., Any]) -> frozenset[str]:
    """What ``@sensitive_variables`` of ``handler`` names; ``__ALL__`` if it names none, as in Django.

    Django notes it where the wrapper is called, which is in a worker. Here nobody calls it, so its closure is read.
    """
    inner: Any = handler
    while inner is not None:
        if getattr(getattr(inner, "__code__", None), "co_name", "") == "sensitive_variables_wrapper":
            names = inspect.getclosurevars(inner).nonlocals.get("variables") or ("__ALL__",)
            return frozenset(names)
        inner = getattr(inner, "__wrapped__", None)
    code = getattr(inspect.unwrap(handler), "__code__", None)
    coroutines: Mapping[int, Any] = getattr(debug, "coroutine_functions_to_sensitive_variables", {})
    names = coroutines.get(hash(f"{code.co_filename}:{code.co_firstlineno}"), ()) if code else ()
    return frozenset(["__ALL__"] if names == "__ALL__" else names)


def _shown(name: str, value: Any) -> str:
    text = pprint.pformat(_masked(name, value), width=100, sort_dicts=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _masked(name: object, value: Any) -> Any:
    if is_sensitive(name):
        return _Mask()
    if isinstance(value, Mapping):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_masked(None, item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Reference):
        return _Text(
            _("%(object)s on %(database)r") % {"object": f"{value.model} {value.pk!r}", "database": value.using}
        )
    if isinstance(value, FieldText):
        return _Mask() if is_sensitive(value.field) else value.text
    if is_dataclass(value):
        return {field.name: _masked(field.name, getattr(value, field.name)) for field in fields(value)}
    return value

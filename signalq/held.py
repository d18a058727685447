"""In autocommit the event of a pre_save waits until the row is written: for the post_save of its instance."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from django.db.models import Model

from . import outbox

if TYPE_CHECKING:
    from .capture import Route

# What waits for an instance's post_save, by route. Not on the instance: a copy of it would take it along.
_held: dict[int, tuple[weakref.ref[Model], dict[Route, list[outbox.Pending]]]] = {}


def hold(route: Route, instance: Model, pending: outbox.Pending) -> None:
    """Let ``pending`` wait for the post_save of ``instance``."""
    key = id(instance)
    if key not in _held:
        _held[key] = (weakref.ref(instance, lambda _: _held.pop(key, None)), {})
    _held[key][1].setdefault(route, []).append(pending)


def forget(route: Route, instance: Any) -> None:
    """What ``route`` still holds is of a save of ``instance`` that failed."""
    if waiting := _held.get(id(instance)):
        waiting[1].pop(route, None)


def release(instance: Model, **kwargs: Any) -> None:
    """The post_save of ``instance``: what waited for it is an event now."""
    if waiting := _held.pop(id(instance), None):
        for pendings in waiting[1].values():
            for pending in pendings:
                outbox.add(pending)

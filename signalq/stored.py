"""The stored values that an instance carries along, and whether they can be relied on."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import uuid
import weakref
from collections.abc import Iterable
from typing import Any

from django.core.files import File
from django.db import router
from django.db.models import Field, Model

from . import outbox
from .event import Old

ATTRIBUTE = "_signalq_base"
_IMMUTABLE = frozenset({
    type(None), bool, int, float, str, bytes, decimal.Decimal, uuid.UUID, dt.date, dt.time, dt.datetime, dt.timedelta,
})  # fmt: skip


class Base(dict[str, Any]):
    """The stored values of an instance's watched fields by attname; replaced, never changed, as copies share it."""

    __slots__ = ("era", "fate", "pk")
    era: object
    """Of the time in which its model is watched without a gap, as it misses the saves in one."""
    pk: Any
    fate: Fate | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Base:
        return base(copy.deepcopy(dict(self), memo), copy.deepcopy(self.pk, memo), self.era, self.fate)

    def __reduce__(self) -> Any:
        return dict, ()  # a pickle may be read much later, and where there is no signalq


class Fate:
    """Whether the transaction that wrote a Base was rolled back; Django drops the hook of one that was."""

    __slots__ = ("committed", "hook")

    def __init__(self, using: str) -> None:
        self.committed = False
        hook = _Hook(self)
        self.hook = weakref.ref(hook)
        outbox.after_commit(using, hook)

    def is_undone(self) -> bool:
        """Whether it was rolled back, or a savepoint in it."""
        return not self.committed and self.hook() is None


class _Hook(outbox.Ours):
    __slots__ = ("fate",)

    def __init__(self, fate: Fate) -> None:
        super().__init__("signalq's note that a change was committed")
        self.fate = fate

    def __call__(self) -> None:
        self.fate.committed = True


def known(instance: Model, using: str | None, era: object) -> Base | None:
    """The instance's base, if it is of the row that a save on ``using`` would write."""
    state = instance._state
    base = state.__dict__.get(ATTRIBUTE)
    if not isinstance(base, Base) or base.era is not era or state.adding or base.pk != instance.pk:
        return None
    if base.fate and base.fate.is_undone():
        return None
    # Read from a replica and written to its primary it is the same row; sent to another database by hand it is not.
    if using not in (None, state.db) and router.db_for_write(type(instance), instance=instance) != using:
        return None
    return base


def read(instance: Model, attnames: Iterable[str]) -> dict[str, Any]:
    """What ``instance`` holds of ``attnames`` now, in a form that stays."""
    values = instance.__dict__
    found = {}
    for attname in attnames:
        if attname in values:
            value = values[attname]
            if type(value) not in _IMMUTABLE:
                value = _frozen(value)
            found[attname] = value
    return found


def _frozen(value: Any) -> Any:
    """A copy that nobody changes, UNKNOWN if there is none."""
    value = comparable(value)
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever a field's own type may raise
        return Old.UNKNOWN


def comparable(value: Any) -> Any:
    """What can be compared in place of what an instance holds."""
    if type(value) in _IMMUTABLE:
        return value
    if isinstance(value, File):
        return value.name
    if isinstance(value, memoryview):
        return bytes(value)
    return Old.UNKNOWN if hasattr(value, "resolve_expression") else value


def same(one: Any, other: Any) -> bool:
    """Whether two values are known to be equal."""
    if isinstance(one, Old) or isinstance(other, Old):
        return False
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a field's own type may refuse, and no save may fail for it
        return False


def python(field: Field[Any, Any], value: Any) -> Any:
    """``value`` as ``field`` would load it."""
    if isinstance(value, Old):
        return value
    try:
        return field.to_python(value)  # "1.50" was assigned where 1.50 is stored
    except Exception:  # noqa: BLE001 - the database took it; a comparison will do without
        return value


def base(values: dict[str, Any], pk: Any, era: object, fate: Fate | None = None) -> Base:
    """The stored ``values`` of the row ``pk``, as far as the transaction behind ``fate`` lasts."""
    base = Base(values)
    base.pk, base.era, base.fate = pk, era, fate
    return base


def remember(instance: Model, base: Base | None) -> None:
    """Have ``instance`` carry ``base``; None: nothing is known."""
    instance._state.__dict__[ATTRIBUTE] = base

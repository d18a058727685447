"""What is in the database of the fields that some ``Changed`` watches, kept with each instance.

Only watched models pay. Three of their methods are wrapped: ``from_db`` and ``refresh_from_db`` see what a row holds
(``post_init`` would see instances made by hand as well, and take what they were given for what is stored), and
``save_base`` tells one save from another inside it. The values are on ``instance._state``, where neither ``vars()``,
serializers nor forms look.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.db.models import Field, Model, signals as model_signals

from . import stored
from .event import Old

Changes = dict[str, tuple[Any, Any]]

DISPATCH_UID = "signalq.tracking"
_ALL_LOADED: tuple[Any, Any] = (frozenset(), True)


@dataclass(frozen=True, slots=True)
class WatchedField:
    """A watched field, with its names at hand."""

    field: Field[Any, Any]
    name: str
    attname: str

    def is_among(self, names: Iterable[str] | None) -> bool:
        """Whether ``update_fields``, or the like, has it."""
        return names is None or self.name in names or self.attname in names


class Watched:
    """The watched fields of one model."""

    def __init__(self, fields: Mapping[str, Field[Any, Any]], era: object) -> None:
        self.era = era
        self.names = {name: field.name for name, field in fields.items()}
        """The field's name for each name that it is watched by."""
        self.fields = {field.name: WatchedField(field, field.name, field.attname) for field in fields.values()}
        self._all = tuple(self.fields.values())
        self.attnames = tuple(field.attname for field in self._all)

    def changes(
        self, instance: Model, old: Callable[[str], Any], update_fields: Iterable[str] | None, held: Sequence[str] = ()
    ) -> Changes:
        """What a save of ``instance`` writes that differs from ``old``."""
        found: Changes = {}
        values = instance.__dict__
        for field in self._all:
            # Django 6 takes an expression away once it is saved, where the database does not return its value.
            if (field.attname in values or field.attname in held) and field.is_among(update_fields):
                before, now = old(field.attname), stored.comparable(values.get(field.attname, Old.UNKNOWN))
                if before is now is not Old.UNKNOWN or stored.same(before, now):
                    continue
                before, now = stored.python(field.field, before), stored.python(field.field, now)
                if not stored.same(before, now):
                    found[field.name] = before, now
        return found


class _Save:
    """One call of ``save_base``, which may happen inside another one of the same instance."""

    __slots__ = ("adding", "base", "changes", "held", "instance")

    def __init__(self, instance: Model, using: str | None, force_insert: Any, watched: Watched) -> None:
        self.instance = instance
        self.base = stored.known(instance, using, watched.era)
        self.held = [name for name in watched.attnames if name in instance.__dict__]
        self.adding = instance._state.adding and (
            bool(force_insert) or instance.pk is None or instance._meta.pk.has_default()
        )
        """It is certain beforehand that there is no row."""
        self.changes: Changes | None = None
        """What it has written, once it has."""

    def old(self, attname: str) -> Any:
        return Old.UNKNOWN if self.base is None else self.base.get(attname, Old.UNKNOWN)


_saves: ContextVar[tuple[_Save, ...]] = ContextVar("signalq_saves", default=())
_watched: dict[type, Watched] = {}
_watchers: dict[type, dict[Hashable, frozenset[str]]] = {}
_lock = threading.Lock()


def watched_by(model: Any) -> Watched | None:
    """The watched fields of ``model``, if there are any."""
    return _watched.get(model)


def watch(model: type[Model], fields: Mapping[str, Field[Any, Any]], watcher: Hashable) -> None:
    """Keep the stored values of ``fields``, by the names that they are watched by, for instances of ``model``."""
    with _lock:
        _watchers.setdefault(model, {})[watcher] = frozenset(field.name for field in fields.values())
        known = _watched.get(model)
        before = {name: known.fields[known.names[name]].field for name in known.names} if known else {}
        _watched[model] = Watched({**before, **fields}, known.era if known else object())
        if known is None:
            for name, wrap in (("from_db", _from_db), ("refresh_from_db", _refresh_from_db), ("save_base", _save_base)):
                _wrap(model, name, wrap)
            model_signals.post_save.connect(_written, sender=model, weak=False, dispatch_uid=DISPATCH_UID)


def unwatch(model: Any, watcher: Hashable) -> None:
    """The inverse of ``watch``: the last watcher's end is the end of what its model pays."""
    with _lock:
        watchers = _watchers.get(model, {})
        watchers.pop(watcher, None)
        if not watchers and _watched.pop(model, None) is not None:
            model_signals.post_save.disconnect(sender=model, dispatch_uid=DISPATCH_UID)


def told(model: Any, kwargs: Mapping[str, Any]) -> Changes:
    """Those of ``changes`` that somebody watches, for an event to carry."""
    watchers = _watchers.get(model)
    if not watchers:
        return {}
    names = frozenset().union(*watchers.values())
    return {name: change for name, change in changes(model, kwargs).items() if name in names}


def changes(model: type[Model], kwargs: Mapping[str, Any]) -> Changes:
    """Old and new value of each watched field that the save writes of which ``kwargs`` tell; by the field's name."""
    watched = _watched.get(model)
    instance = kwargs.get("instance")
    if watched is None or not isinstance(instance, Model):
        return {}
    save = next((save for save in reversed(_saves.get()) if save.instance is instance), None)
    update_fields = kwargs.get("update_fields")
    if "created" not in kwargs:
        absent = save is not None and save.adding
        return watched.changes(instance, _old(absent, save), update_fields)
    if save is None:  # loaddata saves past save_base
        return watched.changes(instance, _old(kwargs["created"], None), update_fields)
    if save.changes is None:
        save.changes = watched.changes(instance, _old(kwargs["created"], save), update_fields, save.held)
        _advance(watched, save, kwargs)
    return save.changes


def _old(absent: bool, save: _Save | None) -> Callable[[str], Any]:
    if absent:
        return lambda attname: Old.ABSENT
    return save.old if save else lambda attname: Old.UNKNOWN


def _written(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    """Note what was written at once: a receiver further on may change or save the instance again."""
    changes(sender, {"instance": instance, **kwargs})


def _advance(watched: Watched, save: _Save, kwargs: Mapping[str, Any]) -> None:
    instance, using = save.instance, kwargs["using"]
    if save.base is not None and not save.changes:
        return
    names = [field.attname for field in watched.fields.values() if field.is_among(kwargs.get("update_fields"))]
    connection = connections[using]
    if connection.in_atomic_block or connection.get_autocommit():
        kept = {} if kwargs["created"] or save.base is None else save.base
        fate = stored.Fate(using) if connection.in_atomic_block else None
        stored.remember(
            instance,
            stored.base(
                {**kept, **dict.fromkeys(names, Old.UNKNOWN), **stored.read(instance, names)},
                instance.pk,
                watched.era,
                fate,
            ),
        )
    else:
        stored.remember(instance, None)  # a transaction without an end that could be seen


def _wrap(model: type[Model], name: str, wrap: Callable[[Any], Any]) -> None:
    method = getattr(model, name)
    method = getattr(method, "__func__", method)
    if not hasattr(method, DISPATCH_UID):  # a parent's, which asks for the class itself
        wrapper = functools.wraps(method)(wrap(method))
        setattr(wrapper, DISPATCH_UID, True)
        setattr(model, name, classmethod(wrapper) if name == "from_db" else wrapper)


def _from_db(original: Any) -> Any:
    def from_db(cls: type[Model], *args: Any, **kwargs: Any) -> Any:
        instance = original(cls, *args, **kwargs)
        if watched := _watched.get(cls):
            values = stored.read(instance, watched.attnames)
            stored.remember(instance, stored.base(values, instance.pk, watched.era))
        return instance

    return from_db


def _refresh_from_db(original: Any) -> Any:
    def refresh_from_db(
        self: Model, using: Any = None, fields: Any = None, from_queryset: Any = None, **kwargs: Any
    ) -> None:
        fields = None if fields is None else list(fields)
        if from_queryset is not None:
            kwargs["from_queryset"] = from_queryset
        watched = _watched.get(type(self))
        known = stored.known(self, self._state.db, watched.era) if watched else None
        original(self, using=using, fields=fields, **kwargs)
        if watched:
            partly = from_queryset is not None and from_queryset.query.deferred_loading != _ALL_LOADED
            names = () if fields is None and partly else fields
            read = [field.attname for field in watched.fields.values() if field.is_among(names)]
            kept = {} if fields is None or known is None else known
            fate = known.fate if known and kept else None
            stored.remember(self, stored.base({**kept, **stored.read(self, read)}, self.pk, watched.era, fate))

    return refresh_from_db


def _save_base(original: Any) -> Any:
    def save_base(self: Model, *args: Any, **kwargs: Any) -> None:
        watched = _watched.get(type(self))
        if watched is None:
            original(self, *args, **kwargs)
            return
        save = _Save(self, kwargs.get("using"), kwargs.get("force_insert"), watched)
        outer = _saves.get()
        _saves.set((*outer, save))
        try:
            original(self, *args, **kwargs)
        finally:
            _saves.set(outer)

    return save_base

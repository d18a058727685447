"""Turns what travelled back into what handlers expect: rows, rebuilt instances, classes."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management.base import OutputWrapper
from django.db import connections
from django.db.migrations import Migration
from django.db.models import Model
from django.db.models.options import Options

from . import codec
from .event import Counterpart, Event, FieldText, ModelClass, Reference, RequestSnapshot, Snapshot
from .exceptions import DecodeError, ObjectGone
from .fields import restored
from .texts import told

Address = tuple[str, str, str]
"""A row's model, alias and the text of its primary key."""

FRESH = 0.1
"""Seconds for which a row loaded with its chunk may still be handed to a handler."""


class Loader:
    """Loads the rows of a chunk's events with one query per model, and hands each loaded instance out once."""

    def __init__(self) -> None:
        self._loaded: dict[Address, tuple[Model, float]] = {}
        """Each with the moment before it was read."""
        self._touched: set[Address] = set()
        self._used = 0

    def prefetch(self, events: Iterable[Event]) -> None:
        """Load what ``events`` refer to."""
        wanted: dict[tuple[str, str], dict[str, Any]] = {}

        def collect(value: Any) -> None:
            if isinstance(value, RequestSnapshot):
                collect(value.user)
            if isinstance(value, Reference):
                with contextlib.suppress(DecodeError):
                    pk = self.thaw(value.pk)
                    wanted.setdefault((value.model, value.using), {})[_text(pk)] = pk

        for event in events:
            for argument in event.arguments.values():
                codec.transform(argument, collect)
        for (label, using), pks in wanted.items():
            # What is damaged is left to its own delivery: its neighbours need not know.
            with contextlib.suppress(DecodeError):
                self._load(label, using, list(pks.values()))

    def _load(self, label: str, using: str, pks: list[Any]) -> None:
        now = time.monotonic()
        for instance in _rows(label, using, pk__in=pks):
            self._loaded[label, using, _text(instance.pk)] = instance, now

    def thaw(self, value: Any) -> Any:
        """``value`` with rows loaded, snapshots rebuilt and classes found. Raises ObjectGone, DecodeError."""
        return codec.transform(value, self._thaw)

    def _thaw(self, value: Any) -> Any:
        if isinstance(value, Reference):
            return self._row(value)
        if isinstance(value, Snapshot):
            return rebuild(value)
        if isinstance(value, ModelClass):
            model = _model(value.label)
            return model._base_manager.none() if value.rows else model
        if isinstance(value, RequestSnapshot):
            return replace(value, user=self._user(value.user))
        if isinstance(value, FieldText):
            return restored(value)
        return _own(value) if isinstance(value, Counterpart) else value

    def _user(self, user: Any) -> Any:
        with contextlib.suppress(ObjectGone):  # the request is still the one that it was
            return self._thaw(user)
        return None

    def _row(self, reference: Reference) -> Model:
        pk = self.thaw(reference.pk)
        # Used once: a handler may have changed the instance, or the row.
        # By the text of its key, which need not have a hash.
        instance = self._fresh((reference.model, reference.using, _text(pk)))
        addresses = _addresses(instance, reference.using)
        if instance is None or not self._touched.isdisjoint(addresses):
            rows = _rows(reference.model, reference.using, pk=pk)
            if not rows:
                raise ObjectGone(
                    f"The {reference.model} with primary key {pk!r} was deleted before its handler could run."
                )
            instance = rows[0]
            addresses = _addresses(instance, reference.using)
        self._touched.update(addresses)
        return instance

    def _fresh(self, address: Address) -> Model | None:
        """What was loaded at ``address``; if too long ago anew, with as many of those behind as were used since."""
        self._used += 1
        instance, loaded_at = self._loaded.pop(address, (None, 0.0))
        if instance is None or time.monotonic() - loaded_at < FRESH:
            return instance
        behind = [other for other in self._loaded if other[:2] == address[:2]][: self._used]
        self._used = 0
        self._load(*address[:2], [instance.pk, *(self._loaded.pop(other)[0].pk for other in behind)])
        return self._loaded.pop(address, (None, 0.0))[0]


def _addresses(instance: Model | None, using: str) -> list[Address]:
    """Each table that holds a part of it, with the key there: a proxy, a parent and a child may be one object."""
    if instance is None:
        return []
    return [(label, using, _text(instance._get_pk_val(options))) for label, options in _tables(type(instance))]


@functools.lru_cache
def _tables(model: type[Model]) -> list[tuple[str, Options[Any]]]:
    models = [model._meta.concrete_model or model, *model._meta.get_parent_list()]
    return [(each._meta.label, each._meta) for each in models]


def _text(pk: Any) -> str:
    try:
        return repr(pk)
    except ValueError as error:  # an integer of more than 4,300 digits: no database has such a key
        raise DecodeError(f"A primary key cannot be one: {told(error)}") from error


def _rows(label: str, using: str, **lookup: Any) -> list[Model]:
    model = _model(label)
    if using not in connections.settings:
        raise DecodeError(f"A {label} is on database {using!r}, which is not in DATABASES here.")
    try:
        return list(model._base_manager.using(using).filter(**lookup))
    except (TypeError, ValueError, ArithmeticError, ValidationError) as error:
        raise DecodeError(
            f"A primary key of {label} does not fit the model here: {told(error)}. Has a migration changed its type?"
        ) from error


def rebuild(snapshot: Snapshot) -> Model:
    """The instance as it was. Raises DecodeError for a field that its model no longer has."""
    model = _model(snapshot.model)
    known = [field.attname for field in model._meta.concrete_fields]
    if unknown := sorted(set(snapshot.fields) - set(known)):
        raise DecodeError(
            f"The snapshot of {snapshot.model} has {', '.join(unknown)}, which the model no longer has: "
            "a migration renamed or removed it while the delivery was under way."
        )
    names = [name for name in known if name in snapshot.fields]
    values = [snapshot.fields[name] for name in names]
    values = [restored(value) if isinstance(value, FieldText) else value for value in values]
    instance = model.from_db(snapshot.using, names, values)
    instance._state.adding = snapshot.adding
    if snapshot.adding:
        for field in model._meta.concrete_fields:
            if field.attname not in snapshot.fields and field.has_db_default():
                # Its value was still the database's to give, and so it is here.
                setattr(instance, field.attname, field.get_default())
    return instance


def _model(label: str) -> type[Model]:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise DecodeError(f"There is no model {label!r} here. Was it renamed or removed?") from error


def _own(value: Counterpart) -> Any:
    """What this process has in the place of the sender's."""
    try:
        return _COUNTERPARTS[value.kind](value.name)
    except (LookupError, TypeError, ImportError) as error:
        raise DecodeError(f"There is no {value.kind} {value.name!r} here. Is the app in INSTALLED_APPS?") from error


def _anonymous_user(name: None) -> Any:
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


_COUNTERPARTS: dict[str, Callable[[Any], Any]] = {
    "app config": lambda label: apps.get_app_config(label),
    "registry of apps": lambda name: apps,
    # Migrations are equal by app and name. The operations stay where they are: a worker need not import them.
    "migration": lambda name: Migration(name[1], name[0]),
    "standard output": lambda name: OutputWrapper(sys.stdout),
    "anonymous user": _anonymous_user,
}

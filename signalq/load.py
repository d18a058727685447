"""Turns what travelled back into what handlers expect: rows, rebuilt instances, classes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import Model

from . import codec
from .event import Event, ModelClass, Reference, Snapshot
from .exceptions import DecodeError, ObjectGone

FRESH = 0.1
"""Seconds for which a row loaded with its chunk may still be handed to a handler."""


class Loader:
    """Loads the rows of a chunk's events with one query per model, and hands each loaded instance out once."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str, str], Model] = {}
        self._loaded_at = 0.0

    def prefetch(self, events: Iterable[Event]) -> None:
        """Load what ``events`` refer to."""
        wanted: dict[tuple[str, str], dict[str, Any]] = {}

        def collect(value: Any) -> None:
            if isinstance(value, Reference):
                wanted.setdefault((value.model, value.using), {})[repr(value.pk)] = value.pk

        for event in events:
            for argument in event.arguments.values():
                codec.transform(argument, collect)
        self._loaded_at = time.monotonic()
        for (label, using), pks in wanted.items():
            # What is damaged is left to its own delivery: its neighbours need not know.
            with contextlib.suppress(DecodeError):
                for instance in _rows(label, using, pk__in=list(pks.values())):
                    self._loaded[label, using, repr(instance.pk)] = instance

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
        return value

    def _row(self, reference: Reference) -> Model:
        # Used once: a handler may have changed the instance, or the row.
        # By the text of its key, which need not have a hash.
        instance = self._loaded.pop((reference.model, reference.using, repr(reference.pk)), None)
        if instance is not None and time.monotonic() - self._loaded_at < FRESH:
            return instance
        rows = _rows(reference.model, reference.using, pk=reference.pk)
        if not rows:
            raise ObjectGone(
                f"The {reference.model} with primary key {reference.pk!r} was deleted before its handler could run."
            )
        return rows[0]


def _rows(label: str, using: str, **lookup: Any) -> list[Model]:
    model = _model(label)
    if using not in connections.settings:
        raise DecodeError(f"A {label} is on database {using!r}, which is not in DATABASES here.")
    try:
        return list(model._base_manager.using(using).filter(**lookup))
    except (TypeError, ValueError, ValidationError) as error:
        raise DecodeError(
            f"A primary key of {label} does not fit the model here: {error}. Has a migration changed its type?"
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
    instance = model.from_db(snapshot.using, names, [snapshot.fields[name] for name in names])
    instance._state.adding = snapshot.adding
    return instance


def _model(label: str) -> type[Model]:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise DecodeError(f"There is no model {label!r} here. Was it renamed or removed?") from error

"""Replaces what lives in one process by what can travel: rows by their address, or as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.files import File
from django.db import router
from django.db.models import Model, QuerySet, signals as model_signals
from django.dispatch import Signal

from .event import ModelClass, Reference, Snapshot
from .exceptions import CaptureError


def freeze(value: Any, subject: Any = None, using: str | None = None) -> Any:
    """Replace what lives in this process by what can travel; ``subject`` lives on ``using``. Raises CaptureError."""
    if isinstance(value, Model):
        if value.pk is None or value._state.adding:
            raise CaptureError(f"the {value._meta.label} is not saved, so that no worker could load it.")
        known = using if value is subject else None
        return Reference(value._meta.label_lower, value.pk, known or written_to(value))
    if isinstance(value, type) and issubclass(value, Model):
        return ModelClass(value._meta.label_lower)
    raise CaptureError(f"a {type(value).__module__}.{type(value).__qualname__} has no lossless form.")


def written_to(instance: Model) -> str:
    """The alias where ``instance`` is written; where it was read may be a replica, which lags behind."""
    return str(router.db_for_write(instance._meta.model, instance=instance))


def snapshot(instance: Model, using: str) -> Snapshot:
    """``instance`` with the values of its concrete fields; deferred ones, many-to-many and file contents stay out."""
    values = {
        field.attname: _field_value(instance.__dict__[field.attname])
        for field in instance._meta.concrete_fields
        if field.attname in instance.__dict__
    }
    return Snapshot(instance._meta.label_lower, using, values, instance._state.adding)


def _field_value(value: Any) -> Any:
    return value.name if isinstance(value, File) else value


def _freeze_row(arguments: dict[str, Any], using: str) -> None:
    if "instance" in arguments:
        arguments["instance"] = snapshot(arguments["instance"], using)


def _freeze_delete(arguments: dict[str, Any], using: str) -> None:
    _freeze_row(arguments, using)
    origin = arguments.get("origin")
    if isinstance(origin, QuerySet):
        arguments["origin"] = ModelClass(origin.model._meta.label_lower, rows=True)
    elif isinstance(origin, Model):
        arguments["origin"] = snapshot(origin, using)


FAMILIES: dict[Signal, Callable[[dict[str, Any], str], None]] = {
    model_signals.pre_save: _freeze_row,
    model_signals.pre_delete: _freeze_delete,
    model_signals.post_delete: _freeze_delete,
}

"""Replaces what lives in one process by what can travel: rows by their address, or as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.core import signals as core_signals
from django.db import router
from django.db.models import Model, QuerySet, signals as model_signals
from django.dispatch import Signal

from . import requests
from .event import Counterpart, ModelClass, Reference, Snapshot
from .exceptions import CaptureError
from .fields import carried, chosen, has_primary_key, primary_key


def freeze(value: Any, subject: Any = None, using: str | None = None) -> Any:
    """Replace what lives in this process by what can travel; ``subject`` lives on ``using``. Raises CaptureError."""
    if isinstance(value, Model):
        if not has_primary_key(value) or value._state.adding:
            raise CaptureError(
                f"the {value._meta.label} is not saved, so that no worker could load it: "
                "send its values, or, if it is the instance, take it as it is with snapshot=True."
            )
        known = using if value is subject else None
        return Reference(value._meta.label_lower, primary_key(value), known or written_to(value))
    if isinstance(value, type) and issubclass(value, Model):
        return ModelClass(value._meta.label_lower)
    if isinstance(value, AppConfig):
        return Counterpart("app config", value.label)
    if request := requests.request_of(value):
        return requests.snapshot(request)
    if requests.is_anonymous_user(value):
        return Counterpart("anonymous user")
    raise CaptureError(f"a {type(value).__module__}.{type(value).__qualname__} has no lossless form.")


def freeze_arguments(
    signal: Signal, arguments: dict[str, Any], using: str | None, wanted: bool | tuple[str, ...] = False
) -> None:
    """Replace, among ``arguments`` of ``signal``, what a worker could not get in the same way.

    ``wanted`` is the receiver's option ``snapshot``.
    """
    only = wanted if isinstance(wanted, tuple) else None
    if family := _FAMILIES.get(signal):
        family(arguments, using, only)
    if wanted:
        _as_it_is(arguments, using, only)


def written_to(instance: Model) -> str:
    """The alias where ``instance`` is written; where it was read may be a replica, which lags behind."""
    return str(router.db_for_write(instance._meta.model, instance=instance))


def snapshot(instance: Model, using: str, only: tuple[str, ...] | None = None) -> Snapshot:
    """``instance`` with the values of its concrete fields, or of its primary key and those that ``only`` names.

    Left out are many-to-many fields, file contents, deferred fields, which it would take a query to know, and fields
    that hold an expression, whose value only the database knows.
    """
    instance = _itself(instance)
    values = {
        field.attname: carried(field, value)
        for field in (instance._meta.concrete_fields if only is None else chosen(instance._meta.model, only))
        if (value := vars(instance).get(field.attname, _UNKNOWN)) is not _UNKNOWN
        and not hasattr(value, "resolve_expression")
    }
    return Snapshot(instance._meta.label_lower, using, values, instance._state.adding)


_UNKNOWN = object()


def _itself(instance: Model) -> Model:
    """What a lazy object, such as ``request.user``, stands for: its ``__dict__`` is not the model's."""
    instance._state  # noqa: B018 - now it is evaluated
    lazy: Model | None = vars(instance).get("_wrapped")
    return instance if lazy is None else lazy


Only = tuple[str, ...] | None


def _as_it_is(arguments: dict[str, Any], using: str | None, only: Only) -> None:
    instance = arguments.get("instance")
    if isinstance(instance, Model):
        arguments["instance"] = snapshot(instance, using or written_to(instance), only)


def _freeze_delete(arguments: dict[str, Any], using: str | None, only: Only) -> None:
    origin = arguments.get("origin")
    if isinstance(origin, QuerySet):
        arguments["origin"] = ModelClass(origin.model._meta.label_lower, rows=True)
    elif isinstance(origin, Model):
        # It may be of another model, and so only= does not speak of it.
        arguments["origin"] = snapshot(origin, using or written_to(origin))
    _as_it_is(arguments, using, only)


def _freeze_m2m(arguments: dict[str, Any], using: str | None, only: Only) -> None:
    model = arguments.get("model")
    if isinstance(arguments.get("pk_set"), set) and isinstance(model, type) and issubclass(model, Model):
        arguments["pk_set"] = {carried(model._meta.pk, pk) for pk in arguments["pk_set"]}


def _freeze_migrate(arguments: dict[str, Any], using: str | None, only: Only) -> None:
    for name, kind in (("apps", "registry of apps"), ("stdout", "standard output")):
        if name in arguments:
            arguments[name] = Counterpart(kind)
    if "plan" in arguments:
        arguments["plan"] = [
            (Counterpart("migration", (migration.app_label, migration.name)), backwards)
            for migration, backwards in arguments["plan"]
        ]


def _freeze_request(arguments: dict[str, Any], using: str | None, only: Only) -> None:
    for name, plain in (("environ", requests.plain_environ), ("scope", requests.plain_scope)):
        if name in arguments:
            arguments[name] = plain(arguments[name])


_FAMILIES: dict[Signal, Callable[[dict[str, Any], str | None, Only], None]] = {
    model_signals.pre_save: _as_it_is,
    model_signals.pre_delete: _freeze_delete,
    model_signals.post_delete: _freeze_delete,
    model_signals.m2m_changed: _freeze_m2m,
    model_signals.pre_migrate: _freeze_migrate,
    model_signals.post_migrate: _freeze_migrate,
    core_signals.request_started: _freeze_request,
}

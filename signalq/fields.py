"""Values of model fields on their way: as they are, or in their field's own text if only it knows their type."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.files import File
from django.db.models import Field, Model
from django.db.models.base import ModelState

from .codec_types import SCALARS, encode
from .event import FieldText
from .exceptions import CaptureError, DecodeError, RegistrationError


def carried(field: Field[Any, Any], value: Any) -> Any:
    """What travels for ``value``; ``value`` itself if there is no lossless way, so that the codec says so."""
    if type(value) in SCALARS:
        return value
    if isinstance(value, File):
        return value.name
    try:
        encode(value, _refuse)
    except (CaptureError, RecursionError):
        return _as_text(field, value)
    return value


def _refuse(value: Any) -> Any:
    raise CaptureError


def _as_text(field: Field[Any, Any], value: Any) -> Any:
    """``value_to_string()``, as in a fixture, if that brings back an equal value of the same type."""
    try:
        text: Any = field.value_to_string(_holding(field, value))
        if not isinstance(text, str):
            return value
        back = getattr(_holding(field, field.to_python(text)), field.attname)
        equal: bool = type(back) is type(value) and back == value
    except Exception:  # noqa: BLE001 - whatever a foreign field raises, it cannot do this
        return value
    return FieldText(field.model._meta.label_lower, field.name, text) if equal else value


def _holding(field: Field[Any, Any], value: Any) -> Model:
    """An instance with nothing but ``value``: set as the field's own descriptor does, which may convert it."""
    instance: Model = field.model.__new__(field.model)
    instance._state = ModelState()
    setattr(instance, field.attname, value)
    return instance


def restored(value: FieldText) -> Any:
    """The value that was carried. Raises DecodeError if its field is gone, or reads this text no longer."""
    try:
        field = apps.get_model(value.model)._meta.get_field(value.field)
        return field.to_python(value.text)
    except Exception as error:  # noqa: BLE001 - the field is the user's
        # Its own text is left out: it may quote the value, and what a dead letter died of is logged.
        raise DecodeError(
            f"The text of {value.model}.{value.field} cannot be read here: {type(error).__name__}. "
            "Has a migration changed the field?"
        ) from None


def primary_key(instance: Model) -> Any:
    """The primary key of ``instance`` as it travels; a composite one is a tuple."""
    pk, meta = instance.pk, instance._meta
    if type(pk) in SCALARS:
        return pk
    if len(meta.pk_fields) > 1:
        return tuple(carried(field, value) for field, value in zip(meta.pk_fields, pk, strict=True))
    return carried(meta.pk, pk)


def has_primary_key(instance: Model) -> bool:
    """Every part of it is set."""
    return instance.pk is not None and None not in (instance.pk if len(instance._meta.pk_fields) > 1 else ())


def chosen(model: type[Model], names: tuple[str, ...]) -> list[Field[Any, Any]]:
    """The concrete fields of ``model`` that ``names`` and the primary key are. Raises RegistrationError."""
    fields = {field.name: field for field in model._meta.pk_fields}
    known = {field.name: field for field in model._meta.concrete_fields}
    known_too = {**{field.attname: field for field in known.values()}, **known}
    for name in names:
        if name in known_too:
            fields[known_too[name].name] = known_too[name]
        elif name != "pk":
            raise RegistrationError(
                f"snapshot={list(names)!r}: {name!r} is no concrete field of {model._meta.label}, "
                f"which has {', '.join(known)}."
            )
    return list(fields.values())

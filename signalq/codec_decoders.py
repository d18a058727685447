"""The way back: from JSON's own types to what they stood for.

A text may be damaged, or forged: each decoder checks what it is given before it works on it.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import re
import reprlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, TypeVar

from django.utils.safestring import mark_safe

from .codec_types import MAX_FLAG_BITS, TAG
from .event import Counterpart, FieldText, ModelClass, Reference, RequestSnapshot, Snapshot
from .exceptions import DecodeError
from .naming import find

T = TypeVar("T")

_MAX_NAME = 1024
"""Characters in the name of a class."""
# What a zone's name looks like. Python looks for it in its own directories, then in the package tzdata.
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,63}(/[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,63}){0,3}")


def decode(value: Any) -> Any:
    """The inverse of ``encode``. It works in place, as two trees of one text would take twice the memory."""
    kind = type(value)
    if kind is list:
        for index, item in enumerate(value):
            if type(item) in _NESTED:
                value[index] = decode(item)
        return value
    if kind is not dict:
        return value
    if TAG not in value:
        for key, item in value.items():
            if type(item) in _NESTED:
                value[key] = decode(item)
        return value
    decoder = DECODERS.get(value[TAG])
    if decoder is None:
        raise DecodeError(f"The tag {shown(value[TAG])} is not known to this version of signalq.")
    return decoder(value["v"])


_NESTED = frozenset({list, dict})


def shown(value: Any) -> str:
    """``value`` for an error message: what is damaged may be a megabyte long."""
    return reprlib.repr(value)


def typed(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def _from_text(convert: Callable[[str], T]) -> Callable[[Any], T]:
    return lambda v: convert(typed(str, v))


def _from_base64(v: Any) -> bytes:
    return base64.b64decode(typed(str, v), validate=True)


def _dict_back(v: Any) -> dict[Any, Any]:
    back = {}
    for pair in typed(list, v):
        key, item = typed(list, pair)
        back[decode(key)] = decode(item)
    return back


def _sequence_back(kind: Callable[[list[Any]], T]) -> Callable[[Any], T]:
    def back(v: Any) -> T:
        # As in decode, and not by calling it: deep values would need more of the stack than encoding them took.
        for index, item in enumerate(typed(list, v)):
            if type(item) in _NESTED:
                v[index] = decode(item)
        return kind(v)

    return back


def _moment_back(kind: type[dt.datetime | dt.time]) -> Callable[[Any], Any]:
    def back(v: Any) -> Any:
        bare, zone, fold = v
        return kind.fromisoformat(bare).replace(tzinfo=zone and _zone_back(zone), fold=fold)

    return back


def _zone_back(zone: Any) -> dt.tzinfo:
    if isinstance(zone, str):
        if not _ZONE_NAME.fullmatch(zone):
            raise DecodeError(f"{shown(zone)} is no time zone's name.")
        return zoneinfo.ZoneInfo(zone)
    return dt.timezone(dt.timedelta(*zone[:3]), *map(decode, zone[3:]))


def _found(name: Any) -> Any:
    if len(typed(str, name)) > _MAX_NAME:
        raise DecodeError(f"{shown(name)} is too long for the name of a class.")
    return find(name)


def _enum_back(v: Any) -> enum.Enum:
    kind, value = _found(v[0]), decode(v[1])
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        raise DecodeError(f"{shown(v[0])} is not an Enum here.")
    if issubclass(kind, enum.Flag) and typed(int, value).bit_length() > MAX_FLAG_BITS:
        raise DecodeError(f"{shown(v[0])} has a value of more than {MAX_FLAG_BITS} bits.")
    return kind(value)


def _snapshot_back(v: Any) -> Snapshot:
    fields = {name: decode(item) for name, item in typed(dict, v[2]).items()}
    return Snapshot(typed(str, v[0]), typed(str, v[1]), fields, typed(bool, v[3]))


def _request_back(v: Any) -> RequestSnapshot:
    method, path, user, meta = (decode(item) for item in v)
    return RequestSnapshot(method, typed(str, path), user, typed(dict, meta))


DECODERS: dict[str, Callable[[Any], Any]] = {
    "str": lambda v: _from_base64(v).decode("utf-8", "surrogatepass"),
    "int": lambda v: int(v, 16),
    "float": _from_text(float),
    "dict": _dict_back,
    "tuple": _sequence_back(tuple),
    "set": _sequence_back(set),
    "frozenset": _sequence_back(frozenset),
    "bytes": _from_base64,
    "memoryview": lambda v: memoryview(_from_base64(v)),
    "datetime": _moment_back(dt.datetime),
    "time": _moment_back(dt.time),
    "date": dt.date.fromisoformat,
    "timedelta": lambda v: dt.timedelta(*typed(list, v)),
    "decimal": _from_text(decimal.Decimal),
    "uuid": _from_text(uuid.UUID),
    "safe": lambda v: mark_safe(decode(v)),  # noqa: S308 - it was safe when it was sent
    "enum": _enum_back,
    "global": lambda v: typed(type, _found(v)),
    "model": lambda v: ModelClass(typed(str, v[0]), typed(bool, v[1])),
    "row": lambda v: Reference(typed(str, v[0]), decode(v[1]), typed(str, v[2])),
    "snapshot": _snapshot_back,
    "field": lambda v: FieldText(typed(str, v[0]), typed(str, v[1]), typed(str, decode(v[2]))),
    "own": lambda v: Counterpart(typed(str, v[0]), decode(v[1])),
    "request": _request_back,
}

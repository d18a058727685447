"""The types that the codec knows: how each becomes JSON's own. codec_decoders.py has the way back."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import math
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

from django.utils.functional import Promise
from django.utils.safestring import SafeString

from .event import Counterpart, FieldText, ModelClass, Reference, RequestSnapshot, Snapshot
from .exceptions import CaptureError
from .naming import global_name

Default = Callable[[Any], Any]

TAG = "$"
# Python refuses to convert integers beyond 4,300 digits from and to decimal text; hexadecimal has no such limit.
BIG = 1 << 63
MAX_FLAG_BITS = 1024
"""A flag with more bits is damage: Python keeps each value that it has seen, and 3.10 a member for each bit."""


def encode(value: Any, default: Default) -> Any:
    """``value`` in JSON's own types."""
    encoder = ENCODERS.get(type(value)) or family(value)
    if encoder is None:
        return encode(default(value), default)
    return encoder(value, default)


def _plain(value: Any, default: Default) -> Any:
    return value


def _tagged(tag: str, convert: Callable[[Any], Any]) -> Callable[[Any, Default], Any]:
    return lambda value, default: {TAG: tag, "v": convert(value)}


def _sequence(tag: str) -> Callable[[Any, Default], Any]:
    return lambda value, default: {TAG: tag, "v": [encode(item, default) for item in value]}


def _string(value: str, default: Default | None = None) -> Any:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        # Two lone surrogates side by side would come back from JSON as one character.
        return {TAG: "str", "v": _base64(value.encode("utf-8", "surrogatepass"))}
    return value


def _integer(value: int, default: Default) -> Any:
    return value if -BIG < value < BIG else {TAG: "int", "v": hex(value)}


def _float(value: float, default: Default) -> Any:
    return value if math.isfinite(value) else {TAG: "float", "v": repr(value)}


def _dict(value: dict[Any, Any], default: Default) -> Any:
    if all(type(key) is str and key.isascii() for key in value) and TAG not in value:
        return {key: encode(item, default) for key, item in value.items()}
    pairs = [[encode(key, default), encode(item, default)] for key, item in value.items()]
    return {TAG: "dict", "v": pairs}


def _moment(value: dt.datetime | dt.time, default: Default) -> Any:
    bare = value.replace(tzinfo=None, fold=0).isoformat()
    return {TAG: type(value).__name__, "v": [bare, value.tzinfo and _zone(value), value.fold]}


def _zone(value: dt.datetime | dt.time) -> Any:
    """The key of a named zone, or a fixed offset and the name that it was given, which its ISO form leaves out."""
    zone = value.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return zone.key
    if type(zone) is not dt.timezone:
        raise CaptureError(
            f"{value!r} has a time zone of type {type(zone).__name__}, which cannot be carried: "
            "use zoneinfo.ZoneInfo or datetime.timezone."
        )
    offset, name = zone.utcoffset(None), zone.tzname(None)
    given = [] if name == dt.timezone(offset).tzname(None) else [_string(name)]
    return [offset.days, offset.seconds, offset.microseconds, *given]


def _enum(value: enum.Enum, default: Default) -> Any:
    name = global_name(type(value))
    if name is None:
        raise CaptureError(f"{type(value).__qualname__} cannot be carried: it is not found at its module's level.")
    if isinstance(value, enum.Flag) and value._value_.bit_length() > MAX_FLAG_BITS:
        raise CaptureError(f"{name} has a value of more than {MAX_FLAG_BITS} bits.")
    # Not value.value, which a class may have made into something else.
    return {TAG: "enum", "v": [name, encode(value._value_, default)]}


def family(value: Any) -> Callable[[Any, Default], Any] | None:
    """Encoders for what is known by its base class, or by what it is."""
    if isinstance(value, enum.Enum):
        return _enum
    if isinstance(value, Promise):
        return lambda lazy, default: _string(str(lazy), default)
    if isinstance(value, type) and not hasattr(value, "_meta") and global_name(value):
        return _tagged("global", global_name)
    return None


def _view(value: memoryview, default: Default) -> Any:
    if value.format != "B" or value.ndim != 1:
        raise CaptureError("a memoryview of anything but plain bytes has no lossless form.")
    return {TAG: "memoryview", "v": _base64(value.tobytes())}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _snapshot(value: Snapshot, default: Default) -> Any:
    fields = {}
    for name, item in value.fields.items():
        try:
            fields[name] = encode(item, default)
        except CaptureError as error:
            raise CaptureError(
                f"its field {name!r}: {error} Take a snapshot of other fields only, with snapshot=[...]."
            ) from error
    return {TAG: "snapshot", "v": [value.model, value.using, fields, value.adding]}


def _request(value: RequestSnapshot, default: Default) -> Any:
    return {TAG: "request", "v": [encode(item, default) for item in (value.method, value.path, value.user, value.META)]}


ENCODERS: dict[type, Callable[[Any, Default], Any]] = {
    type(None): _plain,
    bool: _plain,
    str: _string,
    int: _integer,
    float: _float,
    list: lambda value, default: [encode(item, default) for item in value],
    dict: _dict,
    tuple: _sequence("tuple"),
    set: _sequence("set"),
    frozenset: _sequence("frozenset"),
    bytes: _tagged("bytes", _base64),
    memoryview: _view,
    dt.datetime: _moment,
    dt.time: _moment,
    dt.date: _tagged("date", dt.date.isoformat),
    dt.timedelta: _tagged("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: _tagged("decimal", str),
    uuid.UUID: _tagged("uuid", str),
    SafeString: lambda value, default: {TAG: "safe", "v": _string("".join(value), default)},
    ModelClass: _tagged("model", lambda value: [value.label, value.rows]),
    Reference: lambda value, default: {TAG: "row", "v": [value.model, encode(value.pk, default), value.using]},
    Snapshot: _snapshot,
    FieldText: _tagged("field", lambda value: [value.model, value.field, _string(value.text)]),
    Counterpart: lambda value, default: {TAG: "own", "v": [value.kind, encode(value.name, default)]},
    RequestSnapshot: _request,
}
SCALARS = ENCODERS.keys() - {list, dict, tuple, set, frozenset, memoryview, dt.datetime, dt.time}
"""Types of which every value can be carried."""

"""The types that the codec knows: how each becomes JSON's own, and how it comes back."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import math
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, TypeVar

from django.utils.functional import Promise
from django.utils.safestring import SafeString, mark_safe

from .event import Counterpart, FieldText, ModelClass, Reference, RequestSnapshot, Snapshot
from .exceptions import CaptureError, DecodeError
from .naming import find, global_name

Default = Callable[[Any], Any]
T = TypeVar("T")

TAG = "$"
# Python refuses to convert integers beyond 4,300 digits from and to decimal text; hexadecimal has no such limit.
_BIG = 1 << 63


def encode(value: Any, default: Default) -> Any:
    """``value`` in JSON's own types."""
    encoder = ENCODERS.get(type(value)) or _family(value)
    if encoder is None:
        return encode(default(value), default)
    return encoder(value, default)


def decode(value: Any) -> Any:
    """The inverse of ``encode``."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: decode(item) for key, item in value.items()}
    decoder = DECODERS.get(value[TAG])
    if decoder is None:
        raise DecodeError(f"The tag {value[TAG]!r} is not known to this version of signalq.")
    return decoder(value["v"])


def typed(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


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
    return value if -_BIG < value < _BIG else {TAG: "int", "v": hex(value)}


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


def _moment_back(kind: type[dt.datetime | dt.time]) -> Callable[[Any], Any]:
    def back(v: Any) -> Any:
        bare, zone, fold = v
        return kind.fromisoformat(bare).replace(tzinfo=zone and _zone_back(zone), fold=fold)

    return back


def _zone_back(zone: Any) -> dt.tzinfo:
    if isinstance(zone, str):
        return zoneinfo.ZoneInfo(zone)
    return dt.timezone(dt.timedelta(*zone[:3]), *map(decode, zone[3:]))


def _enum(value: enum.Enum, default: Default) -> Any:
    name = global_name(type(value))
    if name is None:
        raise CaptureError(f"{type(value).__qualname__} cannot be carried: it is not found at its module's level.")
    # Not value.value, which a class may have made into something else.
    return {TAG: "enum", "v": [name, encode(value._value_, default)]}


def _enum_back(v: Any) -> enum.Enum:
    kind = find(v[0])
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        raise DecodeError(f"{v[0]!r} is not an Enum here.")
    return kind(decode(v[1]))


def _family(value: Any) -> Callable[[Any, Default], Any] | None:
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


def _snapshot_back(v: Any) -> Snapshot:
    fields = {name: decode(item) for name, item in typed(dict, v[2]).items()}
    return Snapshot(typed(str, v[0]), typed(str, v[1]), fields, typed(bool, v[3]))


def _request(value: RequestSnapshot, default: Default) -> Any:
    return {TAG: "request", "v": [encode(item, default) for item in (value.method, value.path, value.user, value.META)]}


def _request_back(v: Any) -> RequestSnapshot:
    method, path, user, meta = (decode(item) for item in v)
    return RequestSnapshot(method, typed(str, path), user, typed(dict, meta))


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

DECODERS: dict[str, Callable[[Any], Any]] = {
    "str": lambda v: base64.b64decode(v).decode("utf-8", "surrogatepass"),
    "int": lambda v: int(v, 16),
    "float": float,
    "dict": lambda v: {decode(key): decode(item) for key, item in v},
    "tuple": lambda v: tuple(decode(item) for item in v),
    "set": lambda v: {decode(item) for item in v},
    "frozenset": lambda v: frozenset(decode(item) for item in v),
    "bytes": base64.b64decode,
    "memoryview": lambda v: memoryview(base64.b64decode(v)),
    "datetime": _moment_back(dt.datetime),
    "time": _moment_back(dt.time),
    "date": dt.date.fromisoformat,
    "timedelta": lambda v: dt.timedelta(*v),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "safe": lambda v: mark_safe(decode(v)),  # noqa: S308 - it was safe when it was sent
    "enum": _enum_back,
    "global": lambda v: typed(type, find(v)),
    "model": lambda v: ModelClass(typed(str, v[0]), typed(bool, v[1])),
    "row": lambda v: Reference(typed(str, v[0]), decode(v[1]), typed(str, v[2])),
    "snapshot": _snapshot_back,
    "field": lambda v: FieldText(typed(str, v[0]), typed(str, v[1]), typed(str, decode(v[2]))),
    "own": lambda v: Counterpart(typed(str, v[0]), decode(v[1])),
    "request": _request_back,
}

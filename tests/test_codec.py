"""The codec: what goes in comes out, of the same type; nothing else does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from django.db.models import TextChoices
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given, strategies as st

from signalq import codec
from signalq.codec_types import encode
from signalq.event import Counterpart, Event, FieldText, ModelClass, Reference, RequestSnapshot, Snapshot, uuid7
from signalq.exceptions import CaptureError


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, "two")


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Status(TextChoices):
    DRAFT = "draft", gettext_lazy("Draft")


class Renamed(enum.Enum):
    """Its value is not what it was made of."""

    ONE = 1

    @property
    def value(self) -> str:  # type: ignore[override]
        return "uno"


class Outer:
    class Inner: ...


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


def refuse(value: Any) -> Any:
    raise CaptureError(f"a {type(value).__qualname__} has no lossless form.")


def there_and_back(value: Any) -> Any:
    text = codec.dumps(value, refuse)
    assert text.isascii()
    assert "\x00" not in text
    json.loads(text, parse_constant=pytest.fail)  # neither NaN nor Infinity
    return codec.loads(text)


def identical(one: Any, other: Any) -> bool:
    """Equal and of the same type, however deep; nan is itself, and 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, Decimal):
        return str(one) == str(other)
    if isinstance(one, dt.datetime | dt.time):
        return (repr(one), one.fold, one.tzname()) == (repr(other), other.fold, other.tzname())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        return identical(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(identical(a, b) for b in other) for a in one)
    if dataclasses.is_dataclass(one):
        return all(identical(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)


texts = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]))  # lone surrogates and NUL are in C
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]).map(ZoneInfo)
offsets = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))
fixed = st.builds(dt.timezone, offsets) | st.builds(dt.timezone, offsets, texts) | st.just(dt.timezone.utc)
folds = st.integers(0, 1)
datetimes = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), st.none() | zones | fixed, folds
)
times = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.times(), st.none() | zones | fixed, folds
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**50), 10**50)
    | st.floats()
    | texts
    | st.binary()
    | datetimes
    | times
    | st.dates()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | texts.map(mark_safe)
    | st.sampled_from([*Colour, *Level, *Status, *Renamed, Access.READ, Access.READ | Access.WRITE, Access(0)])
    | st.builds(ModelClass, texts, st.booleans())
    | st.sampled_from([int, Outer, Outer.Inner, uuid.UUID])
)
hashable = st.recursive(
    scalars.filter(lambda value: not (isinstance(value, Decimal) and value.is_snan())),
    lambda inner: st.frozensets(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
keys = hashable | st.sampled_from(["$", "v", "", "é"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=3)
        | st.frozensets(hashable, max_size=3)
        | st.dictionaries(keys, inner, max_size=4)
        | st.builds(Reference, texts, inner, texts)
        | st.builds(Snapshot, texts, texts, st.dictionaries(texts, inner, max_size=3), st.booleans())
    ),
    max_leaves=15,
)


@given(values)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert identical(there_and_back(value), value)


@given(st.dictionaries(texts, values, max_size=4), values, st.none() | st.uuids(), st.lists(texts, max_size=3), values)
def test_an_event_s_text_is_the_json_of_its_tree(
    arguments: dict[str, Any], sender: Any, parent: uuid.UUID | None, chain: list[str], carried: Any
) -> None:
    """However it is written: much of it is put together without a tree."""
    event = Event(uuid7(), "\u00e9.signal", sender, arguments, parent, tuple(chain), context={"it": carried})
    tree = {
        "v": codec.VERSION,
        "id": str(event.id),
        "signal": event.signal,
        "sender": encode(sender, refuse),
        "arguments": {name: encode(value, refuse) for name, value in arguments.items()},
        "parent": parent and str(parent),
        "chain": chain,
        "context": encode({"it": carried}, refuse),
    }
    assert codec.dump_event(event, refuse) == json.dumps(tree, separators=(",", ":"), allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [
        10**5000,
        -(10**5000),
        1 << 63,
        -(1 << 63),
        1e16,
        5e-324,
        math.nan,
        math.inf,
        -math.inf,
        -0.0,
        True,
        "nul \x00",
        "lone \ud800",
        "backwards \udc00\ud800",
        "two that make a pair \ud83d\ude00",
        "the pair itself \U0001f600",
        "\\u0000",
        {"$": "int", "v": "1"},
        {"$": 1, "nested": {"$": None}},
        {1: "int", "1": "str", None: "none", (1, 2): "tuple"},
        {"lone \udfff": 1},
        OrderedDict,
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=-1, microseconds=1))),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), "")),
        dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-1), "\ud800")),
        dt.timedelta.min,
        dt.timedelta.max,
        Decimal("1.10"),
        Decimal("-NaN123"),
        Decimal("sNaN"),
        Decimal("1E+999999"),
        Reference("app.model", [1, {"unhashable"}], "default"),
        Reference("app.model", (1, uuid7()), "default"),
        Snapshot("app.model", "other", {"id": None, "$": 1}, adding=True),
        Snapshot("app.model", "other", {"range": FieldText("app.model", "range", "[1,\ud800)")}),
        Reference("app.model", (FieldText("app.model", "id", "1"), 2), "default"),
        Counterpart("app config", "shop"),
        Counterpart("migration", ("shop", "0001_initial")),
        RequestSnapshot("GET", "/\u00e9", Reference("auth.user", 1, "default"), {"REMOTE_ADDR": "::1"}),
        RequestSnapshot(None, "", None, {}),
        mark_safe("<b>\x00\ud800</b>"),
        pytest.param(memoryview(b"\x00\xff"), id="memoryview"),
    ],
    ids=lambda value: ascii(value)[:40] if not isinstance(value, int) or abs(value) < 1 << 70 else "huge",
)
def test_odd_ones(value: Any) -> None:
    assert identical(there_and_back([value])[0], value)


def test_lazy_text_becomes_the_text_in_the_sender_s_language() -> None:
    assert identical(there_and_back(gettext_lazy("Yes \ud800")), "Yes \ud800")


def test_safe_text_stays_safe() -> None:
    assert type(there_and_back({"html": mark_safe("<b>")})["html"]) is SafeString


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def local_enum() -> enum.Enum:
    class Local(enum.Enum):
        ONE = 1

    return Local.ONE


class OtherZone(dt.tzinfo): ...


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        OrderedDict(a=1),
        Point(1),
        Text("a subclass"),
        bytearray(b"1"),
        memoryview(b"12").cast("H"),
        1j,
        local_enum(),
        type(local_enum()),
        dt.datetime(2024, 1, 1, tzinfo=OtherZone()),
        circular(),
        iter([]),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"deep": [(value,)]}], ids=["itself", "nested"])
def test_what_cannot_be_carried_is_refused_and_named(value: Any, wrap: Any) -> None:
    event = Event(uuid7(), "shop.signals.paid", None, {"fine": 1, "broken": wrap(value)})
    with pytest.raises(CaptureError, match=r"^Argument 'broken' of shop\.signals\.paid cannot be carried: .*\. Leave"):
        codec.dump_event(event, refuse)


def test_a_sender_that_cannot_be_carried_is_named() -> None:
    with pytest.raises(CaptureError, match=r"^The sender of shop\.signals\.paid cannot be carried: .*type\(self\)"):
        codec.dump_event(Event(uuid7(), "shop.signals.paid", object(), {}), refuse)


def test_the_field_of_a_snapshot_is_named() -> None:
    with pytest.raises(CaptureError, match="its field 'point'"):
        codec.dumps(Snapshot("app.model", "default", {"id": 1, "point": object()}), refuse)


def test_default_replaces_what_is_not_known_wherever_it_is() -> None:
    text = codec.dumps({"a": (object(), [object()])}, lambda value: Reference("app.model", 1, "default"))
    row = Reference("app.model", 1, "default")
    assert codec.loads(text) == {"a": (row, [row])}


@given(
    st.builds(
        Event,
        id=st.uuids(),
        signal=texts,
        sender=values,
        arguments=st.dictionaries(texts.filter(str.isidentifier), values, max_size=4),
        parent=st.none() | st.uuids(),
        chain=st.lists(texts.filter(str.isprintable)).map(tuple),
    )
)
def test_events_go_there_and_back(event: Event) -> None:
    text = codec.dump_event(event, refuse)
    assert text.isascii()
    assert identical(codec.load_event(text), event)


def test_transform_reaches_everything_but_containers() -> None:
    value = {"a": [1, (2, {3}), frozenset([4])], 5: {6: 7}}
    assert codec.transform(value, str) == {"a": ["1", ("2", {"3"}), frozenset(["4"])], "5": {"6": "7"}}

"""Reading a text takes bounded time and memory, and what is written can be read: lengths, depths, names, errors."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import importlib
import json
import sys
import time
import tracemalloc
import zoneinfo
from typing import Any

import pytest
from django.utils.functional import lazy, lazystr

from signalq import codec
from signalq.event import Event, uuid7
from signalq.exceptions import CaptureError, DecodeError
from signalq.freeze import freeze


def refuse(value: Any) -> Any:
    raise AssertionError


MEBI = 1 << 20


def tagged(tag: str, v: Any) -> str:
    return json.dumps({"$": tag, "v": v})


BOMBS = {
    "empty lists": "[" + "[]," * (MEBI // 3) + "[]]",
    "empty objects": "[" + "{}," * (MEBI // 3) + "{}]",
    "small objects": "[" + '{"a":1},' * (MEBI // 8) + "1]",
    "sets": '{"$":"tuple","v":[' + '{"$":"set","v":[]},' * (MEBI // 18) + "1]}",
    "one wide character": '"' + "a" * MEBI + '\\ud83d\\ude00"',
    "base64": tagged("bytes", "A" * 4 * MEBI),
    "digits": "1" * 10 * MEBI,
    "a float's digits": "1" * MEBI + ".5",
    "a float's text": tagged("float", "1" * MEBI),
    "a decimal's digits": tagged("decimal", "1" * MEBI),
    "hexadecimal": tagged("int", "f" * 10 * MEBI),
    "giant exponents": tagged(
        "set", [{"$": "decimal", "v": f"{sign}1E{e}"} for sign in "+-" for e in (10**17, -(10**9))]
    ),
    "a flag": tagged("enum", ["re:RegexFlag", {"$": "int", "v": "f" * MEBI}]),
    "a name": tagged("global", "json:" + "a." * MEBI),
    "a tag": '{"$":"' + "x" * 10 * MEBI + '","v":1}',
    "a zone": tagged("datetime", ["2024-01-01T00:00:00", "a/" * MEBI, 0]),
    "lists in lists": "[" * 10 * MEBI,
    "objects in objects": '{"a":' * MEBI,
    "tags in tags": '{"$":"safe","v":' * MEBI,
    "the same key": "{" + '"a":1,' * MEBI + '"a":1}',
    "20 MB": '"' + "x" * 20 * MEBI + '"',
}


@pytest.mark.fault(32)
@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("load", [codec.loads, codec.load_event])
def test_no_text_takes_much_time_or_memory(load: Any, text: str) -> None:
    tracemalloc.start()
    started = time.process_time()
    with contextlib.suppress(DecodeError):
        load(text)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 + 32 * len(text)  # about 25 in the worst case
    assert seconds < 1 + 3 * len(text) / MEBI


@pytest.mark.fault(32)
@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_an_error_about_a_text_does_not_repeat_it(text: str) -> None:
    for load in (codec.loads, codec.load_event):
        try:
            load(text)
        except DecodeError as error:
            assert len(str(error)) < 1_000


def test_what_is_too_long_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAX_PAYLOAD is the sender's own limit; this one is fixed, so that what was recorded is always read."""
    monkeypatch.setattr(codec, "MAX_TEXT", 1_000)
    assert codec.loads(codec.dumps("x" * 998, refuse)) == "x" * 998
    with pytest.raises(CaptureError, match="1,001 characters; 1,000 is the most"):
        codec.dumps("x" * 999, refuse)
    with pytest.raises(CaptureError, match="1,000 is the most"):
        codec.dump_event(Event(uuid7(), "signal", None, {"text": "x" * 999}), refuse)
    for load in (codec.loads, codec.load_event):
        with pytest.raises(DecodeError, match="1,000 characters at the most; this has 1,001"):
            load('"' + "x" * 999 + '"')


NESTINGS: dict[str, Any] = {
    "lists": lambda value: [value],
    "tuples": lambda value: (value,),
    "objects": lambda value: {"a": value},
    "odd keys": lambda value: {1: value},
    "lists of tuples": lambda value: [(value,)],
    "sets": lambda value: frozenset([value]),
}


@pytest.mark.parametrize("wrap", NESTINGS.values(), ids=NESTINGS)
def test_what_is_written_is_never_too_deep_to_be_read(wrap: Any) -> None:
    """Also where the worker's stack is deep already, 400 frames: the sender learns it, not the dead letters."""

    def under(frames: int, function: Any) -> Any:
        return under(frames - 1, function) if frames else function()

    value: Any = 1
    deep = 0
    while deep < 300:
        deep, value = deep + 1, wrap(value)
        try:
            text = codec.dump_event(Event(uuid7(), "signal", None, {"value": value}), refuse)
        except CaptureError as error:
            assert "nested too deeply" in str(error)
            break
        event = under(400, lambda: codec.load_event(text))  # noqa: B023
        under(400, lambda: codec.transform(event.arguments, lambda item: item))  # noqa: B023
        assert event.arguments == {"value": value}
    assert 50 < deep < 250


def test_what_is_too_deep_for_the_handlers_stack_is_damage() -> None:
    value: Any = 1
    for _ in range(sys.getrecursionlimit()):
        value = [value]
    with pytest.raises(DecodeError, match="nested too deeply"):
        codec.transform(value, lambda item: item)


def test_many_brackets_in_a_text_are_not_deep() -> None:
    value = ["[" * 1_000 + '"{\\' * 10, {"[" * 300: [[]] * 500}]
    assert codec.loads(codec.dumps(value, refuse)) == value


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Touchy(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Touchy:
        raise Speechless if value == 2 else KeyError(10**5_000)


@pytest.mark.parametrize("value", [2, 3])
def test_an_error_without_text_is_damage(value: int) -> None:
    with pytest.raises(DecodeError, match=r"not an event's text: (Speechless|KeyError)\."):
        codec.loads(tagged("enum", [f"{__name__}:Touchy", value]))


class Awkward:
    """Nothing that is asked about it is answered."""

    @property
    def __class__(self) -> Any:
        raise Speechless

    def __getattr__(self, name: str) -> Any:
        raise Speechless


@pytest.mark.parametrize("make", [Awkward, lambda: lazystr(Speechless()), lazy(lambda: 1 / 0, str)])
def test_a_value_that_raises_when_it_is_looked_at_cannot_be_carried(make: Any) -> None:
    value = make()
    with pytest.raises(CaptureError):
        codec.dumps([value], freeze)
    for event in (
        Event(uuid7(), "signal", None, {"value": value}),
        Event(uuid7(), "signal", value, {}),
        Event(uuid7(), "signal", None, {}, context={"mine": value}),
    ):
        with pytest.raises(CaptureError, match="cannot be carried"):
            codec.dump_event(event, freeze)


@pytest.mark.parametrize(
    "zone",
    ["../../etc/passwd", "/etc/passwd", "..", "Europe/../../x", "Europe\\Berlin", "a\x00b", "\ud800", "", "é", ".x"],
)
def test_a_zone_is_no_path(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("it was looked for")

    monkeypatch.setattr(zoneinfo, "ZoneInfo", opened)
    with pytest.raises(DecodeError, match=r"no time zone's name|not an event's text: TypeError"):
        codec.loads(tagged("datetime", ["2024-01-01T00:00:00", zone, 0]))


def test_every_zone_there_is_comes_back() -> None:
    for name in zoneinfo.available_timezones():
        moment = dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo(name))
        assert codec.loads(codec.dumps(moment, refuse)).tzinfo.key == name


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":-Infinity}'])
def test_what_is_not_json_is_damage(text: str) -> None:
    with pytest.raises(DecodeError, match="is not JSON"):
        codec.loads(text)


def test_a_name_is_looked_up_and_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(importlib, "import_module", imported.append)
    for name in ("os:system", "antigravity:x", "django.core.mail.backends.smtp:x", f"{__name__}:Outer", "..signalq:x"):
        for tag, v in (("global", name), ("enum", [name, 1])):
            with contextlib.suppress(DecodeError):
                codec.loads(tagged(tag, v))
    assert imported == []

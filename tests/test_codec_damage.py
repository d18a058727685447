"""What is no event's text raises DecodeError and nothing else, and imports nothing."""

from __future__ import annotations

import contextlib
import enum
import json
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given, strategies as st

from signalq import codec, codec_decoders
from signalq.event import Event, uuid7
from signalq.exceptions import DecodeError, NewerVersion


class Refuses(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Refuses:
        raise RuntimeError("no such thing")


class Outer: ...


def function() -> None: ...


def refuse(value: Any) -> Any:
    raise AssertionError


texts = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]))  # lone surrogates and NUL are in C
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
damaged = st.recursive(
    json_values,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.builds(lambda tag, v: {"$": tag, "v": v}, st.sampled_from([*codec_decoders.DECODERS, "?", 1, []]), inner)
        | st.builds(lambda tag: {"$": tag}, st.sampled_from([*codec_decoders.DECODERS]))
    ),
    max_leaves=10,
)


def fails_only_as_damaged(load: Any, text: str) -> None:
    before = set(sys.modules)
    with contextlib.suppress(DecodeError):
        load(text)
    assert {name for name in set(sys.modules) - before if not name.startswith(("encodings", "_strptime"))} == set()


@given(st.text())
def test_arbitrary_text_is_damage(text: str) -> None:
    fails_only_as_damaged(codec.loads, text)
    with pytest.raises(DecodeError):
        codec.load_event(text)


@given(damaged)
def test_arbitrary_json_is_damage(value: Any) -> None:
    fails_only_as_damaged(codec.loads, json.dumps(value))
    fails_only_as_damaged(codec.load_event, json.dumps(value))


@given(st.data())
def test_an_envelope_with_one_part_replaced_is_damage(data: st.DataObject) -> None:
    envelope = json.loads(codec.dump_event(Event(uuid7(), "signal", Outer, {"row": 1}, uuid7(), ("one",)), refuse))
    part = data.draw(st.sampled_from(sorted(envelope)))
    envelope[part] = data.draw(damaged)
    try:
        event = codec.load_event(json.dumps(envelope))
    except DecodeError:
        return
    assert type(event.id) is uuid.UUID
    assert type(event.signal) is str
    assert event.parent is None or type(event.parent) is uuid.UUID
    assert all(type(name) is str for name in event.chain)


def test_a_newer_version_is_not_damage() -> None:
    envelope = {"v": codec.VERSION + 1, "whatever": "it holds"}
    with pytest.raises(NewerVersion, match="update the worker"):
        codec.load_event(json.dumps(envelope))


@pytest.mark.parametrize(
    ("tag", "v"),
    [
        ("datetime", ["2024-01-01T00:00:00", "America", 0]),  # a directory of time zones
        ("datetime", ["2024-01-01T00:00:00", "x" * 5000, 0]),
        ("datetime", ["2024-01-01T00:00:00", "Nowhere/Land", 0]),
        ("enum", [f"{__name__}:Refuses", 2]),
        ("enum", [f"{__name__}:Outer", 2]),
        ("enum", [f"{__name__}:Gone", 2]),
        ("global", f"{__name__}:Outer.Gone"),
        ("global", f"{__name__}:function"),
        ("global", "no.such.module:Thing"),
        ("row", [1, 1, "default"]),
        ("row", ["app.model", 1, None]),
        ("model", [["app.model"], False]),
        ("snapshot", ["app.model", "default", [], False]),
        ("snapshot", ["app.model", "default", {}, 1]),
        ("set", [[1]]),
        ("dict", [[[1], 1]]),
        ("dict", [1]),
        ("decimal", "1" + "e" * 3),
        ("bytes", 1),
        ("bytes", "é"),
        ("str", "/w=="),
        ("timedelta", [10**400]),
        ("float", 10**400),
        ("float", 1.5),
        ("decimal", [0, [1], 0]),
        ("uuid", 7),
        ("bytes", "!!!!"),
        ("bytes", "AAA"),
        ("dict", {"ab": 1}),
        ("dict", ["ab"]),
        ("tuple", "ab"),
        ("timedelta", "12"),
        ("timedelta", [10**12, 0, 0]),
        ("enum", ["re:RegexFlag", {"$": "int", "v": "f" * 300}]),
        ("enum", ["re:RegexFlag", "1"]),
        ("enum", [["re:RegexFlag"], 1]),
        ("global", None),
        ("", None),
        ([], None),
    ],
)
def test_damage(tag: Any, v: Any) -> None:
    with pytest.raises(DecodeError):
        codec.loads(json.dumps({"$": tag, "v": v}))


def test_too_deep_is_damage() -> None:
    with pytest.raises(DecodeError):
        codec.loads("[" * 100_000)


def test_no_module_is_imported_because_a_text_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("antigravity", "this"):
        assert name not in sys.modules
        with pytest.raises(DecodeError, match="not loaded here: import it in an AppConfig"):
            codec.loads(json.dumps({"$": "global", "v": f"{name}:Anything"}))
        assert name not in sys.modules
    # Nor may a module that is loaded be made to import: some do when they are asked for an attribute.
    monkeypatch.setattr(sys.modules[__name__], "__getattr__", lambda name: __import__("antigravity"), raising=False)
    with pytest.raises(DecodeError, match="does not exist here"):
        codec.loads(json.dumps({"$": "global", "v": f"{__name__}:lazily"}))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("handler", ["wsgi:WSGIHandler", "asgi:ASGIHandler"])
def test_the_senders_of_request_signals_are_found(handler: str) -> None:
    assert codec.loads(json.dumps({"$": "global", "v": f"django.core.handlers.{handler}"})).__name__ in handler

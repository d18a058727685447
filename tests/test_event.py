"""The ids of events."""

from __future__ import annotations

import dataclasses
import time
import uuid

import pytest

from signalq.event import Event, uuid7


def test_uuid7_has_version_and_variant() -> None:
    for _ in range(1_000):
        value = uuid7()
        assert value.version == 7
        assert value.variant == uuid.RFC_4122


def test_uuid7_begins_with_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    value = uuid7()
    after = time.time_ns() // 1_000_000
    assert before <= value.int >> 80 <= after


def test_uuid7_sorts_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in (0, 1, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1):
        monkeypatch.setattr(time, "time_ns", lambda now=millisecond: now * 1_000_000)
        made.append(uuid7())
    assert made == sorted(made)
    assert [str(value) for value in made] == sorted(str(value) for value in made)
    assert {value.version for value in made} == {7}


def test_uuid7_is_another_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_an_event_is_frozen() -> None:
    event = Event(uuid7(), "signal", None, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.signal = "another"  # type: ignore[misc]

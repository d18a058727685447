"""When to try again, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from signalq.retry import Policy


@pytest.mark.parametrize(
    ("options", "delays"),
    [
        ({}, [1, 2, 4, 8, 16, 32, 64]),
        ({"backoff": 0.5}, [0.5, 1, 2, 4]),
        ({"backoff": 10, "backoff_max": 25}, [10, 20, 25, 25]),
        ({"backoff": 100, "backoff_max": 25}, [25, 25]),
        ({"backoff": 0}, [0, 0, 0]),
        ({"backoff_max": 0}, [0, 0]),
    ],
)
def test_delay_without_jitter(options: Any, delays: list[float]) -> None:
    policy = Policy(jitter=False, **options)
    assert [policy.delay(attempt) for attempt in range(1, len(delays) + 1)] == delays


def test_jitter_is_between_nothing_and_the_backoff() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    policy = Policy(backoff=4)
    assert [policy.delay(attempt, uniform) for attempt in (1, 2, 3)] == [2, 4, 8]
    assert asked == [(0, 4), (0, 8), (0, 16)]


@given(st.integers(1, 10**9), st.floats(0, 1e9), st.floats(0, 1e9), st.booleans())
def test_delay_is_never_beyond_its_maximum(attempt: int, backoff: float, maximum: float, jitter: bool) -> None:
    assert 0 <= Policy(None, backoff, maximum, jitter).delay(attempt) <= maximum


@pytest.mark.parametrize(
    ("max_retries", "attempts"),
    [(0, 1), (1, 2), (20, 21)],
)
def test_attempts(max_retries: int, attempts: int) -> None:
    policy = Policy(max_retries)
    assert [policy.has_left(attempt) for attempt in (attempts - 1, attempts, attempts + 1)] == [True, False, False]


def test_none_is_for_ever() -> None:
    assert Policy(None).has_left(10**9)


@pytest.mark.parametrize(
    ("options", "error", "again"),
    [
        ({}, ValueError(), True),
        ({}, SystemExit(), False),
        ({"autoretry_for": (KeyError,)}, ValueError(), False),
        ({"autoretry_for": (LookupError,)}, KeyError(), True),
        ({"autoretry_for": ()}, ValueError(), False),
        ({"dont_autoretry_for": (ValueError,)}, ValueError(), False),
        ({"dont_autoretry_for": (LookupError,)}, KeyError(), False),
        ({"dont_autoretry_for": (KeyError,)}, IndexError(), True),
        ({"autoretry_for": (KeyError,), "dont_autoretry_for": (LookupError,)}, KeyError(), False),
        ({"max_retries": 0}, ValueError(), False),
    ],
)
def test_which_errors_are_retried(options: Any, error: BaseException, again: bool) -> None:
    assert Policy(**options).retries(error, 1) is again

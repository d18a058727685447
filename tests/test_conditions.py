"""Conditions for when=, and what becomes of them when they are combined."""

from __future__ import annotations

from typing import Any

import pytest

from signalq import Condition, Created, Sent


def yes(**kwargs: Any) -> str:
    return "truthy"


def no(**kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("condition", "arguments", "expected"),
    [
        (Created(), {"created": True}, True),
        (Created(), {"created": False}, False),
        (Created(), {}, False),
        (~Created(), {"created": False}, True),
        (Sent(action="post_add"), {"action": "post_add", "pk_set": {1}}, True),
        (Sent(action="post_add"), {"action": "pre_add"}, False),
        (Sent(action="post_add", reverse=False), {"action": "post_add", "reverse": True}, False),
        (Sent(update_fields=None), {}, False),
        (Sent(update_fields=None), {"update_fields": None}, True),
        (Created() & yes, {"created": True}, True),
        (Created() & no, {"created": True}, False),
        (yes & Created(), {"created": False}, False),
        (yes & Created(), {"created": True}, True),
        (Created() | no, {"created": False}, False),
        (Created() | yes, {"created": False}, True),
        (no | Created(), {"created": True}, True),
        (~(Created() | Sent(a=1)), {"created": False, "a": 2}, True),
        (~Created() & ~Sent(a=1) & yes, {"created": False, "a": 2}, True),
        (~~Created(), {"created": True}, True),
    ],
)
def test_conditions(condition: Condition, arguments: dict[str, Any], expected: bool) -> None:
    assert condition(**arguments) is expected


def test_and_and_or_ask_no_more_than_they_need() -> None:
    def never(**kwargs: Any) -> bool:
        raise AssertionError

    assert (Sent(a=1) & never)(a=2) is False
    assert (Sent(a=1) | never)(a=1) is True


def test_the_same_condition_made_again_is_equal() -> None:
    def made() -> Condition:
        return Created() & ~Sent(ids=[1, 2]) | yes

    assert made() == made()
    assert hash(made()) == hash(made())
    assert Sent(a=1) != Sent(a=2)
    assert Created() != Sent(created=True)
    assert (Created() & yes) != (Created() | yes)
    assert Created() != "created"


def test_what_cannot_be_combined_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        Created() & 5  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        "x" | Created()  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"write Created\(\)"):
        Sent(a=1) & Created


def test_sent_needs_an_argument() -> None:
    with pytest.raises(TypeError, match="at least one argument"):
        Sent()

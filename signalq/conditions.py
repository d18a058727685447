"""Conditions for ``when=``: evaluated in the sender's process, before anything is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Condition:
    """A test of a signal's arguments; combine with ``&``, ``|`` and ``~``."""

    parts: tuple[Callable[..., object], ...] = ()
    """The conditions that it is made of: what they need to know ahead is found through this."""

    def __call__(self, **kwargs: Any) -> bool:
        raise NotImplementedError

    def __and__(self, other: Callable[..., object]) -> Condition:
        return _combined(all, self, other)

    def __rand__(self, other: Callable[..., object]) -> Condition:
        return _combined(all, other, self)

    def __or__(self, other: Callable[..., object]) -> Condition:
        return _combined(any, self, other)

    def __ror__(self, other: Callable[..., object]) -> Condition:
        return _combined(any, other, self)

    def __invert__(self) -> Condition:
        return _Not(self)

    def __eq__(self, other: object) -> bool:
        # A module that is imported again makes the same condition anew.
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))  # what it expects may have no hash


def _combined(rule: Callable[..., bool], *parts: Callable[..., object]) -> Condition:
    for part in parts:
        if not callable(part):
            return NotImplemented
        if isinstance(part, type) and issubclass(part, Condition):
            raise TypeError(f"{part.__name__} is a class: write {part.__name__}().")
    return _Combined(rule, *parts)


class _Combined(Condition):
    def __init__(self, rule: Callable[..., bool], *parts: Callable[..., object]) -> None:
        self.rule, self.parts = rule, parts

    def __call__(self, **kwargs: Any) -> bool:
        return self.rule(part(**kwargs) for part in self.parts)

    def __repr__(self) -> str:
        return f"({(' & ' if self.rule is all else ' | ').join(map(_text, self.parts))})"


class _Not(Condition):
    def __init__(self, part: Callable[..., object]) -> None:
        self.parts = (part,)

    def __call__(self, **kwargs: Any) -> bool:
        return not self.parts[0](**kwargs)

    def __repr__(self) -> str:
        return f"~{_text(self.parts[0])}"


def _text(part: Callable[..., object]) -> str:
    return repr(part) if isinstance(part, Condition) else str(getattr(part, "__qualname__", part))


class Sent(Condition):
    """True when the signal was sent with these arguments: ``Sent(action="post_add")``."""

    def __init__(self, **expected: Any) -> None:
        if not expected:
            raise TypeError('Sent() needs at least one argument, as in Sent(action="post_add").')
        self.expected = expected

    def __call__(self, **kwargs: Any) -> bool:
        return all(name in kwargs and kwargs[name] == value for name, value in self.expected.items())

    def __repr__(self) -> str:
        return f"Sent({', '.join(f'{name}={value!r}' for name, value in self.expected.items())})"


class Created(Sent):
    """True for the ``post_save`` of a row that was inserted."""

    def __init__(self) -> None:
        super().__init__(created=True)

    def __repr__(self) -> str:
        return "Created()"

"""``muted``: save without telling anybody, in a data migration or an import."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

F = TypeVar("F", bound=Callable[..., Any])


class _Everyone(frozenset[Any]):
    def __bool__(self) -> bool:
        return True

    def __contains__(self, receiver: object) -> bool:
        return True

    def __or__(self, other: Any) -> frozenset[Any]:
        return self

    __ror__ = __or__


NOBODY: frozenset[Any] = frozenset()
_muted: ContextVar[frozenset[Any]] = ContextVar("signalq_muted", default=NOBODY)


def current() -> frozenset[Any]:
    """The receivers that capture nothing in this thread or task."""
    return _muted.get()


class muted:  # noqa: N801 - reads as a statement
    """Within it nothing is captured for ``receivers``; for any receiver if none is named.

    A context manager and a decorator, for coroutines too; in async code ``with muted():`` spans its awaits. It counts
    for this thread or task alone, and for handlers that are called within it nested ones add up. What was captured
    before still runs, and so does Django's own ``@receiver``.

    Raises TypeError for what is no async receiver.
    """

    def __init__(self, *receivers: Receiver) -> None:
        from .receivers import AsyncReceiver

        given: tuple[object, ...] = receivers
        for receiver in given:
            if not isinstance(receiver, AsyncReceiver):
                hint = ": muted is called, as in @muted()" if callable(receiver) and len(receivers) == 1 else ""
                raise TypeError(f"muted() takes receivers made by async_receiver, not {receiver!r}{hint}.")
        self.receivers = frozenset(receivers) if receivers else _Everyone()
        self._before: list[frozenset[Any]] = []

    def __enter__(self) -> None:
        before = _muted.get()
        self._before.append(before)
        _muted.set(self.receivers | before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not by a token, which a generator that ends in another context could not give back.
        _muted.set(self._before.pop())

    def __call__(self, function: F) -> F:
        """``function``, muted in each of its calls."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                with self._fresh():
                    return await function(*args, **kwargs)

            return cast("F", call_async)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._fresh():
                return function(*args, **kwargs)

        return cast("F", call)

    def _fresh(self) -> muted:
        """Calls in several threads must not share what was before."""
        fresh = muted()
        fresh.receivers = self.receivers
        return fresh

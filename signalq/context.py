"""What travels with an event besides its arguments; today the chain of events that led to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from .event import Event


@dataclass(frozen=True, slots=True)
class CurrentDelivery:
    """The delivery that this handler runs for."""

    event: Event
    receiver: str
    """The receiver's name."""
    attempt: int
    """The number of this attempt, from 1."""

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt, and different for each event and receiver: for services that take one."""
        return f"{self.event.id}:{self.receiver}"


_current: ContextVar[CurrentDelivery | None] = ContextVar("signalq_delivery", default=None)


def current_delivery() -> CurrentDelivery | None:
    """The delivery whose handler is running in this thread or task; None outside a worker's handler."""
    return _current.get()


@contextlib.contextmanager
def delivering(delivery: CurrentDelivery) -> Iterator[None]:
    """Make ``delivery`` the current one."""
    token = _current.set(delivery)
    try:
        yield
    finally:
        _current.reset(token)

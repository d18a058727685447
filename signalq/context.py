"""What travels with an event besides its arguments: the chain that led to it, and what it was sent under.

A source is a pair of functions: one tells in the sender's process what there is, one makes it active around the
handler. surroundings.py has those that come with signalq.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from operator import is_
from typing import Any, NamedTuple

from django.core.signals import setting_changed

from .event import Event, delivery_id
from .exceptions import ContextError, RegistrationError
from .texts import told

logger = logging.getLogger("signalq.context")


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
        return str(delivery_id(self.event.id, self.receiver))


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


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that travels with every event."""

    capture: Callable[[], Any]
    activate: Callable[[Any], AbstractContextManager[Any]]
    steady: bool = False
    """Its value hangs on context variables and settings alone."""


_sources: dict[str, Source] = {}
_changing: dict[str, Source] = {}
"""Those of them that are asked for every event."""
_era = object()


def register_context(
    name: str, capture: Callable[[], Any], activate: Callable[[Any], AbstractContextManager[Any]]
) -> None:
    """Have something travel with every event, as in ``register_context("tenant", current_tenant, tenant_context)``.

    ``capture()`` is called in the sender's process at each event, and returns a value that an event can carry; None:
    there is nothing to carry. ``activate(value)`` returns a context manager, which is active around the handler. An
    event that a handler causes inherits what it does not set anew. Register in an ``AppConfig.ready()``, which runs in
    the worker too.

    Raises RegistrationError if another pair of functions has the name, TypeError for what cannot be called.
    """
    if not (isinstance(name, str) and name):
        raise TypeError(f"register_context() takes a name first, not {name!r}.")
    if not (callable(capture) and callable(activate)):
        raise TypeError(f"register_context({name!r}, ...) takes two functions: capture() and activate(value).")
    register(name, Source(capture, activate))


def register(name: str, source: Source) -> None:
    """As ``register_context``, for one whose values are steady too."""
    known = _sources.get(name)
    if known is not None and _place(known) != _place(source):
        raise RegistrationError(
            f"The context {name!r} is registered already, by {_place(known)[0]}: give one of them another name, "
            "or call unregister_context() first."
        )
    _replace_sources({**_sources, name: source})


def _replace_sources(sources: dict[str, Source]) -> None:
    global _sources, _changing
    _sources, _changing = sources, {name: source for name, source in sources.items() if not source.steady}
    _begin_era()


def _begin_era(**kwargs: Any) -> None:
    """Nothing that was captured before tells anything about the next event."""
    global _era
    _era = object()


setting_changed.connect(_begin_era, dispatch_uid="signalq.context")


def unregister_context(name: str) -> None:
    """Have it travel no longer; also for those that come with signalq: "user", "language", "timezone", "trace"."""
    _replace_sources({known: source for known, source in _sources.items() if known != name})


def _place(source: Source) -> tuple[str, ...]:
    """Where it is written: the same when a module is imported again."""
    functions = (source.capture, source.activate)
    return tuple(f"{f.__module__}.{getattr(f, '__qualname__', repr(f))}" for f in functions)


class Captured(NamedTuple):
    """What an event takes along, and what that was found under."""

    values: dict[str, Any]
    """By name."""
    steady: dict[str, Any]
    variables: contextvars.Context
    thread: int
    era: object


def captured(before: Captured | None = None) -> Captured:
    """What an event that is captured now takes along; ``before``: what another one did in this transaction.

    Raises ContextError if a source raises.
    """
    # Comparing all context variables takes a tenth of the time of asking for language and time zone.
    variables, thread = contextvars.copy_context(), threading.get_ident()
    if before and before.era is _era and before.thread == thread and _same(before.variables, variables):
        steady, variables = before.steady, before.variables
    else:
        steady = _ask({name: source for name, source in _sources.items() if source.steady})
    cause = _current.get()
    inherited = cause.event.context if cause else {}
    return Captured({**inherited, **steady, **_ask(_changing)}, steady, variables, thread, _era)


def _same(one: contextvars.Context, other: contextvars.Context) -> bool:
    """Variable by variable the very same: == would ask values, of which some refuse, and others load a row."""
    return len(one) == len(other) and all(map(is_, one, other)) and all(map(is_, one.values(), other.values()))


def _ask(sources: Mapping[str, Source]) -> dict[str, Any]:
    found = {}
    for name, source in sources.items():
        try:
            value = source.capture()
        except Exception as error:
            raise ContextError(
                f"The context {name!r} cannot be captured: {source.capture!r} raised {told(error)}"
            ) from error
        if value is not None:
            found[name] = value
    return found


@contextlib.contextmanager
def active(context: Mapping[str, Any]) -> Iterator[None]:
    """Make what an event brought along active.

    Raises ContextError if a source raises.
    """
    with contextlib.ExitStack() as stack:
        for name, value in context.items():
            source = _sources.get(name)
            if source is None:
                # As with an argument that the handler does not name: it is at hand in the event.
                logger.debug("The context %r is not registered in this process.", name)
                continue
            try:
                stack.enter_context(source.activate(value))
            except Exception as error:
                raise ContextError(
                    # Not the value, which may be personal: this is logged.
                    f"The context {name!r} cannot be made active with its {type(value).__name__}: "
                    f"{source.activate!r} raised {type(error).__name__}."
                ) from error
        yield

"""1 register: ``@async_receiver``, the AsyncReceiver that it makes, and the registry of all of them."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar, cast

from django.apps import apps
from django.db.models.signals import ModelSignal
from django.db.models.utils import make_model_tuple
from django.dispatch import Signal

from . import capture
from .conditions import Condition
from .exceptions import RegistrationError
from .retry import Policy

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")


class OptionsDict(TypedDict, total=False):
    """The keyword arguments of ``async_receiver``, for type checkers; Options says what each means."""

    sender: Any
    when: Condition | Callable[..., object] | None
    raw: bool
    using: str | None
    omit: Iterable[str]
    name: str | None
    aliases: Iterable[str]
    dispatch_uid: str | None
    weak: bool
    durable: bool
    atomic: bool
    countdown: float | timedelta
    max_retries: int | None
    retry_backoff: float | bool
    retry_backoff_max: float
    retry_jitter: bool
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    queue: str | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool


@dataclass(frozen=True)
class Options:
    """A receiver's options with their defaults. Durations are in seconds and accept a timedelta."""

    sender: Any = None
    """A model class, ``"app.Model"``, a list of either, or any object for custom signals; None: any."""
    when: Condition | Callable[..., object] | None = None
    """Called with the signal's arguments in the sender's process; false: this receiver is left out."""
    raw: bool = False
    """Also events from loaddata."""
    using: str | None = None
    """Only events of this alias; for custom signals the alias whose transaction they wait for."""
    omit: tuple[str, ...] = ()
    """Arguments not to carry."""
    name: str | None = None
    """The stable name; by default ``module.function``."""
    aliases: tuple[str, ...] = ()
    """Old names that it still serves."""
    durable: bool = True
    """True: a row in the outbox. False: one signed Celery message alone."""
    atomic: bool = True
    """Run the handler in the transaction that marks the delivery done (durable only)."""
    countdown: float = 0.0
    """Wait this long before the first attempt."""
    max_retries: int | None = 20
    retry_backoff: float = 1.0
    retry_backoff_max: float = 3600.0
    retry_jitter: bool = True
    autoretry_for: tuple[type[BaseException], ...] = (Exception,)
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    queue: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool = True

    @property
    def travels_alone(self) -> bool:
        """One delivery a message: nothing shares the fate of an effect outside the database, or a time limit."""
        return not self.atomic or self.time_limit is not None or self.soft_time_limit is not None

    @property
    def policy(self) -> Policy:
        """The retry options as a policy."""
        return Policy(
            self.max_retries,
            self.retry_backoff,
            self.retry_backoff_max,
            self.retry_jitter,
            self.autoretry_for,
            self.dont_autoretry_for,
        )

    @property
    def senders(self) -> list[Any]:
        """Each sender to connect to; ``[None]`` for any."""
        return list(self.sender) if isinstance(self.sender, list | tuple | set) else [self.sender]


class AsyncReceiver(Generic[P, R]):
    """A signal handler that runs in a worker. Calling it runs the body here and now.

    Made by ``async_receiver``.
    """

    def __init__(self, signals: tuple[Signal, ...], handler: Callable[P, R], options: Options) -> None:
        self.handler = handler
        self.options = options
        self.name = options.name or _default_name(handler)
        self.policy = options.policy
        self.signals = {capture.signal_name(signal): signal for signal in signals}
        self.connected = False
        functools.update_wrapper(self, handler)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<AsyncReceiver {self.name}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and the old ones that it still serves."""
        return (self.name, *self.options.aliases)

    def connect(self) -> None:
        """Capture its signals (again); connecting twice is connecting once."""
        self.connected = True
        self._each_sender(capture.connect)

    def disconnect(self) -> bool:
        """Stop capturing its signals; what is recorded still runs. True if it was connected."""
        was_connected, self.connected = self.connected, False
        self._each_sender(capture.disconnect)
        return was_connected

    def _each_sender(self, action: Callable[[Signal, Any, Any], None]) -> None:
        for signal in self.signals.values():
            for sender in self.options.senders:
                if isinstance(sender, str) and isinstance(signal, ModelSignal):
                    # Django keeps these until the model is defined; by then the receiver may be disconnected.
                    apps.lazy_model_operation(functools.partial(self._lazily, action, signal), make_model_tuple(sender))
                else:
                    action(signal, sender, self)

    def _lazily(self, action: Callable[[Signal, Any, Any], None], signal: Signal, model: Any) -> None:
        if self.connected == (action is capture.connect):
            action(signal, model, self)


class Registry(Mapping[str, AsyncReceiver[..., Any]]):
    """Every receiver of this process, by its name and by its old names."""

    def __init__(self) -> None:
        self._by_name: dict[str, AsyncReceiver[..., Any]] = {}
        self._listeners: list[Callable[[AsyncReceiver[..., Any]], None]] = []

    def __getitem__(self, name: str) -> AsyncReceiver[..., Any]:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def all(self) -> list[AsyncReceiver[..., Any]]:
        """Each receiver once, by name."""
        return [receiver for name, receiver in sorted(self._by_name.items()) if receiver.name == name]

    def listen(self, listener: Callable[[AsyncReceiver[..., Any]], None]) -> None:
        """Call ``listener`` with each receiver there is, and with each that is registered from now on."""
        self._listeners.append(listener)
        for receiver in self.all():
            listener(receiver)

    def add(self, receiver: AsyncReceiver[P, R]) -> AsyncReceiver[P, R]:
        """Register and connect ``receiver``; the same definition again is one registration, and the first is returned.

        Raises RegistrationError if one of its names is taken.
        """
        for name in receiver.names:
            known = self._by_name.get(name)
            if known is None:
                continue
            if known.handler is receiver.handler and _same(known, receiver):
                return cast("AsyncReceiver[P, R]", known)
            if known.handler is receiver.handler or _place(known.handler) != _place(receiver.handler):
                raise RegistrationError(
                    f"Two receivers are named {name!r}: {_where(known.handler)} and {_where(receiver.handler)}. "
                    "Give one of them name=...; for one handler of several signals pass a list of signals."
                )
            # The module was imported again (a reload, or under the same name): the new definition counts.
            known.disconnect()
        self._by_name.update(dict.fromkeys(receiver.names, receiver))
        receiver.connect()
        for listener in self._listeners:
            listener(receiver)
        return receiver

    def remove(self, receiver: AsyncReceiver[..., Any]) -> None:
        """Forget ``receiver`` altogether; what is recorded for it is parked."""
        receiver.disconnect()
        for name in receiver.names:
            self._by_name.pop(name, None)


registry = Registry()


def async_receiver(
    signal: Signal | list[Signal] | tuple[Signal, ...], **options: Unpack[OptionsDict]
) -> Callable[[Callable[P, R]], AsyncReceiver[P, R]]:
    """Run the decorated signal handler in a Celery worker, after the sender's transaction commits.

    ``signal`` is what Django's ``receiver`` takes: a signal or a list of them. Options explains the options.

    Raises TypeError for an unknown option or a value of the wrong kind, RegistrationError for what contradicts.
    """
    signals = tuple(signal) if isinstance(signal, list | tuple) else (signal,)
    for item in signals:
        capture.check(item)
    checked = _options(dict(options))

    def decorate(handler: Callable[P, R]) -> AsyncReceiver[P, R]:
        if isinstance(handler, AsyncReceiver):
            handler = handler.handler
        return registry.add(AsyncReceiver(signals, handler, checked))

    return decorate


def _options(given: dict[str, Any]) -> Options:
    known = OptionsDict.__annotations__
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
            raise TypeError(f"async_receiver() got an unknown option {option!r}; {hint}")
    if given.pop("weak", False):
        raise RegistrationError("weak=True is refused: a worker cannot hold a handler that may be collected.")
    if uid := given.pop("dispatch_uid", None):
        given.setdefault("name", str(uid))
    for option in ("omit", "aliases", "autoretry_for", "dont_autoretry_for"):
        if option in given:
            given[option] = _tuple(option, given[option])
    for option in ("countdown", "retry_backoff", "retry_backoff_max"):
        if option in given:
            given[option] = _seconds(option, given[option])
    options = Options(**given)
    _check_values(options, given)
    return options


def _check_values(options: Options, given: Mapping[str, Any]) -> None:
    if options.when is not None and not callable(options.when):
        raise TypeError(f"when={options.when!r} is not callable. Did you mean Created(), with parentheses?")
    if isinstance(options.when, type) and issubclass(options.when, Condition):
        raise TypeError(f"when={options.when.__name__} is a class: write {options.when.__name__}().")
    retries = options.max_retries
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise TypeError(f"max_retries={retries!r} must be a whole number from 0, or None for ever.")
    if not options.durable and "atomic" in given:
        raise RegistrationError(
            "durable=False contradicts atomic=...: a transient delivery has no row to settle with the handler's writes."
        )
    for field in fields(Options):
        if field.type == "bool" and not isinstance(getattr(options, field.name), bool):
            raise TypeError(f"{field.name}={getattr(options, field.name)!r} must be True or False.")


def _tuple(option: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        raise TypeError(f"{option}={value!r} must be a list: write {option}=[{value!r}].")
    return tuple(value) if isinstance(value, Iterable) else (value,)


def _seconds(option: str, value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, int | float) or value < 0:
        raise TypeError(f"{option}={value!r} must be seconds or a timedelta, at least 0.")
    return float(value)


def _default_name(handler: Callable[..., Any]) -> str:
    qualname = getattr(handler, "__qualname__", None)
    if qualname is None or "<" in qualname:
        raise RegistrationError(
            f"{qualname or handler!r} has no name that a worker could find again (a lambda, a local function or "
            "a partial): move it to its module's level, or pass name=... and register it in every process."
        )
    return f"{handler.__module__}.{qualname}"


def _same(one: AsyncReceiver[..., Any], other: AsyncReceiver[..., Any]) -> bool:
    return one.options == other.options and list(one.signals.values()) == list(other.signals.values())


def _place(handler: Callable[..., Any]) -> tuple[Any, ...]:
    """Where ``handler`` is written: the same for a definition that is executed again."""
    code = getattr(handler, "__code__", None)
    return (
        handler.__module__,
        getattr(handler, "__qualname__", None),
        code and (code.co_filename, code.co_firstlineno),
    )


def _where(handler: Callable[..., Any]) -> str:
    code = getattr(handler, "__code__", None)
    module = sys.modules.get(handler.__module__)
    line = f":{code.co_firstlineno}" if code else ""
    return f"{getattr(module, '__file__', handler.__module__)}{line}"

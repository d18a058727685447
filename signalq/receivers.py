"""1 register: ``@async_receiver``, the AsyncReceiver that it makes, and the registry of all of them."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.checks import register
from django.db.models import Model
from django.db.models.signals import ModelSignal, class_prepared
from django.db.models.utils import make_model_tuple
from django.dispatch import Signal
from django.utils.inspect import func_accepts_kwargs

from . import capture, changes, sources
from .checks.installed import check_configured, check_installed
from .event import Event
from .exceptions import RegistrationError
from .naming import signal_name
from .options import Options, OptionsDict, check_key, checked_name, read

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")


class AsyncReceiver(Generic[P, R]):
    """A signal handler that runs in a worker. Calling it runs the body here and now.

    Made by ``async_receiver``.
    """

    def __init__(
        self, signals: tuple[Signal, ...], handler: Callable[P, R], options: Options, batch_size: int | None = None
    ) -> None:
        functools.update_wrapper(self, handler)  # first: it copies the handler's own attributes, whatever their names
        self.handler = handler
        self.options = options
        self.batch_size = batch_size
        self.name = checked_name(_default_name(handler) if options.name is None else options.name)
        self.policy = options.policy
        self.signals = {signal_name(signal): signal for signal in signals}
        self.connected = False
        changes.check(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<AsyncReceiver {self.name}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and the old ones that it still serves."""
        return (self.name, *self.options.aliases)

    @functools.cached_property
    def travels_alone(self) -> bool:
        """Each of its deliveries has a message of its own."""
        return self.batch_size is None and self.options.travels_alone

    @functools.cached_property
    def synchronous(self) -> Callable[..., Any]:
        """The handler as a worker calls it: a coroutine function runs to its end."""
        handler: Any = self.handler
        return async_to_sync(handler) if inspect.iscoroutinefunction(handler) else handler

    def connect(self) -> None:
        """Capture its signals (again); connecting twice is connecting once."""
        self.connected = True
        if self.options.subclasses:
            class_prepared.connect(_adopt, weak=False, dispatch_uid="signalq.adopt")
        self._each_sender(capture.connect)

    def disconnect(self) -> bool:
        """Stop capturing its signals; what is recorded still runs. True if it was connected."""
        was_connected, self.connected = self.connected, False
        self._each_sender(capture.disconnect)
        return was_connected

    def _each_sender(self, action: Callable[[Signal, Any, Any], None]) -> None:
        for signal in self.signals.values():
            for sender in self.options.senders:
                if self.options.subclasses:
                    for model in sources.family(sender):
                        action(signal, model, self)
                    continue
                if isinstance(sender, str) and "." in sender:
                    # Django keeps these until the model is defined; by then the receiver may be disconnected.
                    apps.lazy_model_operation(functools.partial(self._lazily, action, signal), make_model_tuple(sender))
                if not (isinstance(sender, str) and isinstance(signal, ModelSignal)):
                    # A custom signal may also be sent with just this text.
                    action(signal, sender, self)

    def adopt(self, model: type[Model]) -> None:
        """Capture the signals of ``model`` too, if it has just been defined as one of its senders' family."""
        if self.connected and self.options.subclasses and sources.is_of(model, self.options.senders):
            for signal in self.signals.values():
                capture.connect(signal, model, self)

    def _lazily(self, action: Callable[[Signal, Any, Any], None], signal: Signal, model: Any) -> None:
        if self.connected == (action is capture.connect):
            action(signal, model, self)


class Registry(Mapping[str, AsyncReceiver[..., Any]]):
    """Every receiver of this process, by its name and by its old names."""

    def __init__(self) -> None:
        # Replaced as a whole, so that whoever iterates over it is not disturbed by an import in another thread.
        self._by_name: dict[str, AsyncReceiver[..., Any]] = {}
        self._lock = threading.Lock()
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
        with self._lock:
            replaced = {}
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
                replaced[known] = True
            kept = {name: known for name, known in self._by_name.items() if known not in replaced}
            self._by_name = {**kept, **dict.fromkeys(receiver.names, receiver)}
        for known in replaced:
            known.disconnect()
        receiver.connect()
        for listener in self._listeners:
            listener(receiver)
        return receiver

    def remove(self, receiver: AsyncReceiver[..., Any]) -> None:
        """Forget ``receiver`` altogether; what is recorded for it is parked."""
        receiver.disconnect()
        with self._lock:
            self._by_name = {name: known for name, known in self._by_name.items() if known is not receiver}


registry = Registry()
register(check_installed)  # here: an app that is not installed registers none


def _adopt(sender: type[Model], **kwargs: Any) -> None:
    # The historical models of migrations are in a registry of their own.
    if sender._meta.apps is apps:
        for receiver in registry.all():
            receiver.adopt(sender)


def async_receiver(
    signal: Signal | list[Signal] | tuple[Signal, ...], **options: Unpack[OptionsDict]
) -> Callable[[Callable[P, R]], AsyncReceiver[P, R]]:
    """Run the decorated signal handler in a Celery worker, after the sender's transaction commits.

    ``signal`` is what Django's ``receiver`` takes: a signal or a list of them. Options explains the options.

    Raises TypeError for an unknown option or a value of the wrong kind, RegistrationError for what contradicts.
    """
    signals, checked = _checked(signal, dict(options))

    def decorate(handler: Callable[P, R]) -> AsyncReceiver[P, R]:
        if isinstance(handler, AsyncReceiver):
            handler = handler.handler
        _check_handler(handler)
        return registry.add(AsyncReceiver(signals, handler, checked))

    return decorate


def async_batch_receiver(
    signal: Signal | list[Signal] | tuple[Signal, ...], *, size: int = 100, **options: Unpack[OptionsDict]
) -> Callable[[Callable[[list[Event]], R]], AsyncReceiver[[list[Event]], R]]:
    """Run the decorated handler once for many events, in one transaction: ``handler(events)``.

    Each Event has its ``arguments`` loaded as a handler of ``async_receiver`` gets them. ``size`` is how many events
    there are in one call at the most; more than the setting CHUNK never arrive together. If the call fails, its events
    are tried again one by one. Options and errors are those of ``async_receiver``.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise TypeError(f"size={size!r} must be a whole number from 1.")
    signals, checked = _checked(signal, dict(options))
    if not checked.durable or not checked.atomic or checked.ordered:
        wrong = "durable=False" if not checked.durable else "ordered=True" if checked.ordered else "atomic=False"
        raise RegistrationError(f"async_batch_receiver() contradicts {wrong}: a batch is one transaction of many rows.")

    def decorate(handler: Callable[[list[Event]], R]) -> AsyncReceiver[[list[Event]], R]:
        if not callable(handler):
            raise TypeError(f"async_batch_receiver() decorates a function, not {handler!r}.")
        return registry.add(AsyncReceiver(signals, handler, checked, batch_size=size))

    return decorate


def _checked(signal: Any, given: dict[str, Any]) -> tuple[tuple[Signal, ...], Options]:
    check_configured()
    signals = tuple(signal) if isinstance(signal, list | tuple) else (signal,)
    if not signals:
        raise TypeError("async_receiver() got an empty list of signals: the handler would never run.")
    for item in signals:
        sources.check_signal(item)
    options = read(given)
    sources.check(signals, options)
    check_key(signals, options)
    return signals, options


def _check_handler(handler: Any) -> None:
    if not callable(handler):
        raise TypeError(f"async_receiver() decorates a function, not {handler!r}.")
    if not func_accepts_kwargs(handler):
        raise RegistrationError(
            f"{getattr(handler, '__qualname__', handler)} must accept **kwargs, as every receiver: "
            "signals may be sent with further arguments."
        )


def _default_name(handler: Callable[..., Any]) -> str:
    qualname = getattr(handler, "__qualname__", None)
    if qualname is None or "<" in qualname:
        raise RegistrationError(
            f"{qualname or handler!r} has no name that a worker could find again (a lambda, a local function or "
            "a partial): move it to its module's level, or pass name=... and register it in every process."
        )
    return f"{handler.__module__}.{qualname}"


def _same(one: AsyncReceiver[..., Any], other: AsyncReceiver[..., Any]) -> bool:
    same_batches = one.batch_size == other.batch_size
    return same_batches and one.options == other.options and list(one.signals.values()) == list(other.signals.values())


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

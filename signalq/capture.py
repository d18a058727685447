"""2 capture: a live signal becomes an encoded event, in the sender's process."""

from __future__ import annotations

import hashlib
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core import signals as core_signals
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends import signals as backend_signals
from django.db.models import Model, signals as model_signals
from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from . import codec, conf, outbox
from .context import current_delivery
from .event import Event, uuid7
from .exceptions import CaptureError, CascadeError, ConditionError, RegistrationError
from .freeze import FAMILIES, freeze, written_to

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

DISPATCH_UID = "signalq"
HELD_UID = "signalq.held"
COLUMN = 255
"""Characters that the outbox's text columns hold; anything longer is kept as its hash."""

_REFUSED: dict[Signal, str] = {
    model_signals.pre_init: "it is sent before there is anything to carry; use post_save with when=Created()",
    model_signals.post_init: "it is sent for every row that is loaded, in the worker too; use post_save",
    model_signals.class_prepared: "it is sent while models are being defined; use AppConfig.ready()",
    backend_signals.connection_created: "it is about this process's own connection; use Django's @receiver",
    core_signals.setting_changed: "it is about this process's own settings; use Django's @receiver",
}


def check(signal: Signal) -> None:
    """Raise for a signal that no receiver in a worker can serve."""
    if not isinstance(signal, Signal):
        raise TypeError(f"async_receiver() takes a Signal or a list of them, not {signal!r}.")
    if reason := _REFUSED.get(signal):
        raise RegistrationError(f"{signal_name(signal)} cannot have an async receiver: {reason}.")


_names: dict[Signal, str] = {}


def signal_name(signal: Signal) -> str:
    """The dotted name of a module-level signal: the same in every process.

    Raises RegistrationError if there is none.
    """
    if signal not in _names:
        found = [
            f"{module_name}.{name}"
            for module_name, module in list(sys.modules.items())
            for name, value in list(getattr(module, "__dict__", {}).items())
            if value is signal
        ]
        if not found:
            raise RegistrationError(
                f"{signal!r} is no module-level variable, so that no worker could find it: "
                "assign it in a module, as in order_paid = Signal()."
            )
        # A module that imports the signal holds it too; where it is defined is mostly called "signals".
        _names[signal] = min(found, key=_likeliness)
    return _names[signal]


def _likeliness(name: str) -> tuple[Any, ...]:
    module = name.rpartition(".")[0]
    return module == "__main__", not module.endswith("signals"), len(name), name


class Route:
    """What Django's dispatcher calls: one for each signal and sender, with all its receivers."""

    def __init__(self, signal: Signal, sender: Any) -> None:
        self.signal, self.sender = signal, sender
        self.receivers: tuple[Receiver, ...] = ()

    def __call__(self, signal: Signal, sender: Any, **kwargs: Any) -> None:
        if self.sender is None and _is_internal(sender):
            return
        if signal is model_signals.pre_save:
            _forget(self, kwargs.get("instance"))
        receivers = [receiver for receiver in self.receivers if _wants(receiver, signal, sender, kwargs)]
        for pending in capture(signal, sender, kwargs, receivers) if receivers else ():
            if signal is model_signals.pre_save and not connections[pending.using].in_atomic_block:
                # Autocommit: the row may yet fail to be written, so the event waits for this instance's post_save.
                _hold(self, kwargs["instance"], pending)
            else:
                outbox.add(pending)


_routes: dict[tuple[int, int], Route] = {}
_routes_lock = threading.RLock()
"""Modules with receivers may be imported in several threads at once."""


def connect(signal: Signal, sender: Any, receiver: Receiver) -> None:
    """Capture ``signal`` from ``sender`` (None: any) for ``receiver``."""
    key = (id(signal), id(sender))
    with _routes_lock:
        route = _routes.get(key)
        if route is None:
            route = _routes[key] = Route(signal, sender)
        if receiver not in route.receivers:
            route.receivers = (*route.receivers, receiver)
        signal.connect(route, sender=sender, weak=False, dispatch_uid=DISPATCH_UID)
        if signal is model_signals.pre_save:
            model_signals.post_save.connect(_release, sender=sender, weak=False, dispatch_uid=HELD_UID)


def disconnect(signal: Signal, sender: Any, receiver: Receiver) -> None:
    """The inverse of ``connect``: Django forgets the route with its last receiver."""
    with _routes_lock:
        route = _routes.get((id(signal), id(sender)))
        if route is None:
            return
        route.receivers = tuple(known for known in route.receivers if known is not receiver)
        if not route.receivers:
            signal.disconnect(sender=sender, dispatch_uid=DISPATCH_UID)
            if signal is model_signals.pre_save:
                model_signals.post_save.disconnect(sender=sender, dispatch_uid=HELD_UID)


# What waits for an instance's post_save, by route. Not on the instance: a copy of it would take it along.
_held: dict[int, tuple[weakref.ref[Model], dict[Route, list[outbox.Pending]]]] = {}


def _hold(route: Route, instance: Model, pending: outbox.Pending) -> None:
    key = id(instance)
    if key not in _held:
        _held[key] = (weakref.ref(instance, lambda _: _held.pop(key, None)), {})
    _held[key][1].setdefault(route, []).append(pending)


def _forget(route: Route, instance: Any) -> None:
    """What ``route`` still holds is of a save of ``instance`` that failed."""
    if held := _held.get(id(instance)):
        held[1].pop(route, None)


def _release(instance: Model, **kwargs: Any) -> None:
    if held := _held.pop(id(instance), None):
        for pendings in held[1].values():
            for pending in pendings:
                outbox.add(pending)


def capture(signal: Signal, sender: Any, kwargs: dict[str, Any], receivers: Iterable[Receiver]) -> list[outbox.Pending]:
    """Freeze one sending for ``receivers``: what is to be left pending, for each alias."""
    name = signal_name(signal)
    subject = kwargs.get("instance")
    batches: dict[str, list[outbox.Item]] = {}
    texts: dict[tuple[str, ...], tuple[Event, str]] = {}
    for receiver in receivers:
        omit = receiver.options.omit
        if omit not in texts:
            texts[omit] = _event(signal, name, sender, kwargs, omit, texts)
        event, text = texts[omit]
        _check_size(receiver, text)
        batches.setdefault(_alias(receiver, kwargs), []).append(_item(receiver, event, subject, text))
    return [outbox.Pending(using, items) for using, items in batches.items()]


def _event(
    signal: Signal, name: str, sender: Any, kwargs: dict[str, Any], omit: tuple[str, ...], siblings: dict[Any, Any]
) -> tuple[Event, str]:
    arguments = {key: value for key, value in kwargs.items() if key not in omit}
    freeze_family = FAMILIES.get(signal)
    using = _using(kwargs) if isinstance(signal, ModelSignal) else None
    if freeze_family:
        freeze_family(arguments, using or DEFAULT_DB_ALIAS)
    cause = current_delivery()
    chain = (*cause.event.chain, cause.receiver) if cause else ()
    if len(chain) > conf.current().MAX_DEPTH:
        raise CascadeError(
            f"Handlers cause each other's events {len(chain)} deep, MAX_DEPTH is {conf.current().MAX_DEPTH}: "
            f"{' -> '.join(chain)}. Use when=..., or queryset.update() in the handler, which sends no signal."
        )
    first = next(iter(siblings.values()), None)
    event = Event(
        id=first[0].id if first else uuid7(),
        signal=name,
        sender=sender,
        arguments=arguments,
        parent=cause.event.id if cause else None,
        chain=chain,
    )
    subject = kwargs.get("instance")
    return event, codec.dump_event(event, lambda value: freeze(value, subject, using))


def _item(receiver: Receiver, event: Event, subject: Any, text: str) -> outbox.Item:
    label = subject._meta.label_lower if isinstance(subject, Model) else ""
    pk = _column(subject.pk) if isinstance(subject, Model) and subject.pk is not None else ""
    return outbox.Item(
        receiver=receiver.name,
        durable=receiver.options.durable,
        alone=receiver.options.travels_alone,
        countdown=receiver.options.countdown,
        event_id=event.id,
        signal=event.signal,
        sender=_column(_label(event.sender)),
        object_pk=pk,
        key=_column(f"{label}:{pk}") if pk else "",
        payload=text,
    )


def _wants(receiver: Receiver, signal: Signal, sender: Any, kwargs: dict[str, Any]) -> bool:
    options = receiver.options
    if not options.raw and kwargs.get("raw") is True and isinstance(signal, ModelSignal):
        return False
    if options.using is not None and _using(kwargs) not in (None, options.using):
        return False
    if options.when is None:
        return True
    try:
        return bool(options.when(signal=signal, sender=sender, **kwargs))
    except Exception as error:
        raise ConditionError(f"when= of {receiver.name} raised {type(error).__name__}: {error}") from error


def _is_internal(sender: Any) -> bool:
    """Models whose signals would only ever be noise, or a loop, to a receiver without a sender."""
    if not (isinstance(sender, type) and issubclass(sender, Model)):
        return False
    # Another registry than the project's: the models of migrations, and the table in which `migrate` keeps its record.
    return sender._meta.apps is not apps or sender._meta.app_label in {"signalq", "django_celery_results"}


def _alias(receiver: Receiver, kwargs: dict[str, Any]) -> str:
    """The database whose transaction the event belongs to."""
    if alias := _using(kwargs) or receiver.options.using:
        return alias
    instance = kwargs.get("instance")
    return written_to(instance) if isinstance(instance, Model) else DEFAULT_DB_ALIAS


def _using(kwargs: dict[str, Any]) -> str | None:
    """The alias that the signal names; a custom signal may mean something else by ``using``."""
    using = kwargs.get("using")
    return using if isinstance(using, str) and using in connections.settings else None


def _check_size(receiver: Receiver, text: str) -> None:
    settings = conf.current()
    name = "MAX_PAYLOAD" if receiver.options.durable else "MAX_PAYLOAD_TRANSIENT"
    limit = getattr(settings, name)
    if len(text) > limit:
        raise CaptureError(
            f"The event for {receiver.name} is {len(text):,} bytes, {name} is {limit:,}: "
            f"leave an argument out with omit=[...], send a reference to it, or raise SIGNALQ['{name}']."
        )


def _label(sender: Any) -> str:
    if isinstance(sender, type) and issubclass(sender, Model):
        return sender._meta.label_lower
    if sender is None or isinstance(sender, str):
        return sender or ""
    kind = type(sender)
    # Not str(sender), which is the user's: it may show personal data, cost a query, or fail.
    return codec.global_name(sender) or f"{kind.__module__}.{kind.__qualname__}"


def _column(value: Any) -> str:
    """``value`` as text that every database's text column takes."""
    text = str(value)
    if len(text) <= COLUMN and text.isprintable():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

"""2 capture: a live signal becomes an encoded event, in the sender's process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, signals as model_signals
from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from . import changes, held, muting, outbox
from .exceptions import ConditionError
from .sending import Sending, alias_of
from .texts import told

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

DISPATCH_UID = "signalq"
HELD_UID = "signalq.held"


class Route:
    """What Django's dispatcher calls: one for each signal and sender, with all its receivers."""

    def __init__(self, signal: Signal, sender: Any) -> None:
        self.signal, self.sender = signal, sender
        self.receivers: tuple[Receiver, ...] = ()

    def __call__(self, signal: Signal, sender: Any, **kwargs: Any) -> None:
        if self.sender is None and _is_internal(sender):
            return
        if signal is model_signals.pre_save:
            held.forget(self, kwargs.get("instance"))
        muted = muting.current()
        receivers = [
            receiver
            for receiver in self.receivers
            if not (muted and receiver in muted) and wants(receiver, signal, sender, kwargs)
        ]
        for pending in capture(signal, sender, kwargs, receivers) if receivers else ():
            if signal is model_signals.pre_save and not pending.connection.in_atomic_block:
                # Autocommit: the row may yet fail to be written, so the event waits for this instance's post_save.
                held.hold(self, kwargs["instance"], pending)
            else:
                outbox.add(pending)


_routes: dict[tuple[int, int], Route] = {}
_routes_lock = threading.RLock()
"""Modules with receivers may be imported in several threads at once."""


def connect(signal: Signal, sender: Any, receiver: Receiver) -> None:
    """Capture ``signal`` from ``sender`` (None: any) for ``receiver``."""
    changes.watch(receiver, signal, sender)
    key = (id(signal), id(sender))
    with _routes_lock:
        route = _routes.get(key)
        if route is None:
            route = _routes[key] = Route(signal, sender)
        if receiver not in route.receivers:
            route.receivers = (*route.receivers, receiver)
        signal.connect(route, sender=sender, weak=False, dispatch_uid=DISPATCH_UID)
        if signal is model_signals.pre_save:
            model_signals.post_save.connect(held.release, sender=sender, weak=False, dispatch_uid=HELD_UID)


def disconnect(signal: Signal, sender: Any, receiver: Receiver) -> None:
    """The inverse of ``connect``: Django forgets the route with its last receiver."""
    changes.unwatch(receiver, signal, sender)
    with _routes_lock:
        route = _routes.get((id(signal), id(sender)))
        if route is None:
            return
        route.receivers = tuple(known for known in route.receivers if known is not receiver)
        if not route.receivers:
            signal.disconnect(sender=sender, dispatch_uid=DISPATCH_UID)
            if signal is model_signals.pre_save:
                model_signals.post_save.disconnect(sender=sender, dispatch_uid=HELD_UID)


def capture(signal: Signal, sender: Any, kwargs: dict[str, Any], receivers: Iterable[Receiver]) -> list[outbox.Pending]:
    """Freeze one sending for ``receivers``: what is to be left pending, for each alias."""
    sending = Sending(signal, sender, kwargs)
    batches: dict[BaseDatabaseWrapper, list[outbox.Item]] = {}
    for receiver in receivers:
        batches.setdefault(sending.connection_for(receiver), []).append(sending.item(receiver))
    return [outbox.Pending(connection, items, sending.context) for connection, items in batches.items()]


def wants(receiver: Receiver, signal: Signal, sender: Any, kwargs: dict[str, Any]) -> bool:
    """Whether its options ``raw``, ``using`` and ``when`` let this sending of ``signal`` pass."""
    options = receiver.options
    if not options.raw and kwargs.get("raw") is True and isinstance(signal, ModelSignal):
        return False
    if options.using is not None and alias_of(kwargs) not in (None, options.using):
        return False
    if options.when is None:
        return True
    try:
        return bool(options.when(signal=signal, sender=sender, **kwargs))
    except Exception as error:
        raise ConditionError(f"when= of {receiver.name} raised {told(error)}") from error


def _is_internal(sender: Any) -> bool:
    """Models whose signals would only ever be noise, or a loop, to a receiver without a sender."""
    if not (isinstance(sender, type) and issubclass(sender, Model)):
        return False
    # Another registry than the project's: the models of migrations, and the table in which `migrate` keeps its record.
    return sender._meta.apps is not apps or sender._meta.app_label in {"signalq", "django_celery_results"}

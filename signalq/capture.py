"""2 capture: a live signal becomes an encoded event, in the sender's process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig, apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model, signals as model_signals
from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from . import changes, codec, conf, context, held, muting, outbox, tracking
from .context import current_delivery
from .event import Event, uuid7
from .exceptions import CaptureError, CascadeError, ConditionError
from .fields import has_primary_key
from .freeze import freeze, freeze_arguments, written_to
from .naming import global_name, signal_name

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

DISPATCH_UID = "signalq"
HELD_UID = "signalq.held"
COLUMN = 255
"""Characters that the outbox's text columns hold; anything longer is kept as its hash."""


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
            if not (muted and receiver in muted) and _wants(receiver, signal, sender, kwargs)
        ]
        for pending in capture(signal, sender, kwargs, receivers) if receivers else ():
            if signal is model_signals.pre_save and not connections[pending.using].in_atomic_block:
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
    name = signal_name(signal)
    batches: dict[str, list[outbox.Item]] = {}
    texts: dict[tuple[Any, ...], tuple[Event, str]] = {}
    for receiver in receivers:
        shape = (receiver.options.omit, receiver.options.snapshot)
        if shape not in texts:
            texts[shape] = _event(signal, name, sender, kwargs, *shape, texts)
        event, text = texts[shape]
        _check_size(receiver, text)
        batches.setdefault(_alias(receiver, kwargs), []).append(_item(receiver, event, signal, kwargs, text))
    return [outbox.Pending(using, items) for using, items in batches.items()]


def _event(
    signal: Signal,
    name: str,
    sender: Any,
    kwargs: dict[str, Any],
    omit: tuple[str, ...],
    snapshot: bool | tuple[str, ...],
    siblings: dict[Any, Any],
) -> tuple[Event, str]:
    arguments = {key: value for key, value in kwargs.items() if key not in omit}
    using = _using(kwargs) if isinstance(signal, ModelSignal) else None
    freeze_arguments(signal, arguments, using, snapshot)
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
        changes=tracking.told(sender, kwargs) if isinstance(signal, ModelSignal) else {},
        context=first[0].context if first else context.captured(),
    )
    subject = kwargs.get("instance")
    return event, codec.dump_event(event, lambda value: freeze(value, subject, using))


def _item(receiver: Receiver, event: Event, signal: Signal, kwargs: dict[str, Any], text: str) -> outbox.Item:
    subject, options = kwargs.get("instance"), receiver.options
    pk = _column(subject.pk) if isinstance(subject, Model) and has_primary_key(subject) else ""
    return outbox.Item(
        receiver=receiver.name,
        durable=receiver.options.durable,
        alone=receiver.travels_alone,
        countdown=options.countdown if options.coalesce is None else options.coalesce,
        expires=options.expires,
        event_id=event.id,
        signal=event.signal,
        sender=_column(_label(event.sender)),
        object_pk=pk,
        key=_key(receiver, signal, event.sender, kwargs) if options.ordered or options.coalesce is not None else "",
        payload=text,
    )


def _key(receiver: Receiver, signal: Signal, sender: Any, kwargs: dict[str, Any]) -> str:
    """What "one object" is for an ordered or coalescing receiver."""
    key, subject = receiver.options.key, kwargs.get("instance")
    if key is None:
        # An object without a primary key is like no other: it has no order, and nothing to be merged with.
        if not isinstance(subject, Model) or not has_primary_key(subject):
            return ""
        return _column(f"{subject._meta.label_lower}:{subject.pk}")
    try:
        return _column(key(signal=signal, sender=sender, **kwargs) if callable(key) else getattr(subject, key))
    except Exception as error:
        raise CaptureError(f"key= of {receiver.name} raised {type(error).__name__}: {error}") from error


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
    if isinstance(sender, AppConfig):
        return sender.label
    kind = type(sender)
    # Not str(sender), which is the user's: it may show personal data, cost a query, or fail.
    return global_name(sender) or f"{kind.__module__}.{kind.__qualname__}"


def _column(value: Any) -> str:
    """``value`` as text that every database's text column takes."""
    text = str(value)
    if len(text) <= COLUMN and text.isprintable():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

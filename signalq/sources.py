"""What a receiver listens to: which signals it may have, and which senders it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.apps import apps
from django.core import signals as core_signals
from django.db.backends import signals as backend_signals
from django.db.models import Model, signals as model_signals
from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from .exceptions import RegistrationError
from .fields import chosen
from .naming import signal_name
from .options import Options

_REFUSED: dict[Signal, str] = {
    model_signals.pre_init: "it is sent before there is anything to carry; use post_save with when=Created()",
    model_signals.post_init: "it is sent for every row that is loaded, in the worker too; use post_save",
    model_signals.class_prepared: "it is sent while models are being defined; use AppConfig.ready()",
    backend_signals.connection_created: "it is about this process's own connection; use Django's @receiver",
    core_signals.setting_changed: "it is about this process's own settings; use Django's @receiver",
}
_WHILE_TABLES_CHANGE = {model_signals.pre_migrate, model_signals.post_migrate}
_OF_ROWS = {model_signals.pre_save, model_signals.post_save, model_signals.pre_delete, model_signals.post_delete}
"""Whose instance is one of their sender's."""
_WITHOUT_INSTANCE = {
    *_WHILE_TABLES_CHANGE,
    core_signals.request_started,
    core_signals.request_finished,
    core_signals.got_request_exception,
}


def check_signal(signal: Signal) -> None:
    """Raise for a signal that no receiver in a worker can serve."""
    if not isinstance(signal, Signal):
        raise TypeError(f"async_receiver() takes a Signal or a list of them, not {signal!r}.")
    if reason := _REFUSED.get(signal):
        raise RegistrationError(f"{signal_name(signal)} cannot have an async receiver: {reason}.")


def check(signals: tuple[Signal, ...], options: Options) -> None:
    """Raise for options that ``signals`` cannot have, and for a sender that would never send one of them."""
    if not options.senders:
        raise TypeError("sender=[] is an empty list: the handler would never run. Leave it out for any sender.")
    for signal in signals:
        if signal in _WHILE_TABLES_CHANGE and options.durable:
            raise RegistrationError(
                f"{signal_name(signal)} needs durable=False: while migrate runs, the outbox table may not be there yet."
            )
        if signal in _WITHOUT_INSTANCE and options.snapshot:
            raise RegistrationError(
                f"snapshot= is about the argument instance, which {signal_name(signal)} is sent without."
            )
        for sender in options.senders if isinstance(signal, ModelSignal) or options.subclasses else ():
            _check_sender(sender, options.subclasses)
            if signal in _OF_ROWS and isinstance(options.snapshot, tuple) and _is_model(sender) and sender._meta.pk:
                chosen(sender, options.snapshot)


def _check_sender(sender: Any, subclasses: bool) -> None:
    if isinstance(sender, str):
        if sender.count(".") != 1:
            raise TypeError(f'sender={sender!r} is no model: write "app_label.Model".')
    elif not _is_model(sender):
        if subclasses:
            raise RegistrationError(f"subclasses=True is for models, and sender={sender!r} is none.")
    elif sender._meta.abstract and not subclasses:
        raise RegistrationError(
            f"sender={sender.__name__} is abstract, so that no signal is ever sent by it: "
            "list its children, or add subclasses=True."
        )
    elif sender._meta.swapped and not subclasses:
        raise RegistrationError(
            f"sender={sender.__name__} is swapped out for {sender._meta.swapped}, so that no signal is ever sent by "
            f"it: write sender=settings.{sender._meta.swappable}."
        )


def _is_model(sender: Any) -> bool:
    return isinstance(sender, type) and issubclass(sender, Model)


def models_of(options: Options) -> Iterator[type[Model]]:
    """The models that are senders by ``options``, as far as they are defined; none for any sender."""
    for sender in options.senders:
        if options.subclasses:
            yield from family(sender)
        elif _is_model(sender):
            yield sender
        elif isinstance(sender, str):
            app_label, _, name = sender.partition(".")
            yield from filter(None, [apps.all_models.get(app_label, {}).get(name.lower())])


def family(sender: Any) -> Iterator[type[Model]]:
    """``sender`` and what inherits from it, of the models defined so far, abstract ones aside."""
    for models in list(apps.all_models.values()):
        for model in list(models.values()):
            if is_of(model, [sender]):
                yield model


def is_of(model: type[Model], senders: Iterable[Any]) -> bool:
    """``model`` is one of ``senders``, or inherits from one; a name may be an abstract base's, too."""
    for sender in senders:
        if not isinstance(sender, str):
            if issubclass(model, sender):
                return True
            continue
        app_label, _, name = sender.partition(".")
        bases = [base for base in model.__mro__ if issubclass(base, Model) and base is not Model]
        if any((base._meta.app_label, base._meta.model_name) == (app_label, name.lower()) for base in bases):
            return True
    return False

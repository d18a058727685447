"""Advice on transactions: where a row could be committed without its event."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage
from django.db import connections
from django.db.models.signals import post_save

from ..receivers import AsyncReceiver, registry
from ..saving import AtomicSave
from ..sources import models_of
from .database import outboxes
from .deployment import advise


def check_autocommit(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W011: between a row and its event a process may die."""
    found: list[CheckMessage] = []
    for using, receivers in outboxes().items():
        settings = connections.settings[using]
        names = [name for name in receivers if _may_lose(registry[name])]
        if names and settings["AUTOCOMMIT"] and not settings["ATOMIC_REQUESTS"]:
            found += advise(
                "W011",
                f"Requests on {using!r} are not atomic: a process that dies right after a save() outside atomic() "
                f"leaves the row without its event, for {', '.join(names[:3])}{', ...' if names[3:] else ''}.",
                f"DATABASES[{using!r}]['ATOMIC_REQUESTS'] = True, or atomic() around each save, or the mixin "
                "signalq.AtomicSave for the models.",
            )
    return found


def _may_lose(receiver: AsyncReceiver[..., Any]) -> bool:
    """The save of its sender is a transaction of its own, and ends before the event."""
    models = list(models_of(receiver.options))
    return post_save in receiver.signals.values() and not (models and all(issubclass(m, AtomicSave) for m in models))

"""System checks: a stable id, a plain message, a hint that says what to do."""

from __future__ import annotations

import difflib
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning as CheckWarning
from django.db import connections
from django.db.models.signals import ModelSignal

from . import conf, sources, wire
from .exceptions import CeleryAppMissing
from .receivers import registry


def check_celery_app(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E001: receivers, and no Celery app that could run them."""
    if not registry or not conf.current().PUBLISH:
        return []
    try:
        wire.celery_app()
    except CeleryAppMissing as error:
        message, _, hint = str(error).partition(". ")
        return [Error(f"{message}.", hint=hint, id="signalq.E001")]
    return []


def check_senders(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E002: a sender by name that is no model, so that its receiver would never run."""
    found: list[CheckMessage] = []
    for receiver in registry.all():
        if not all(isinstance(signal, ModelSignal) for signal in receiver.signals.values()):
            continue  # any text may send a custom signal
        for sender in receiver.options.senders:
            if isinstance(sender, str) and (hint := _why_missing(sender, receiver.options.subclasses)):
                message = f"{receiver.name} will never run for sender={sender!r}, which is no model of this project."
                found.append(Error(message, hint=hint, id="signalq.E002"))
    return found


def _why_missing(sender: str, subclasses: bool) -> str | None:
    """What to do about ``sender``; None if it is there."""
    app_label, _, name = sender.partition(".")
    if app_label not in apps.app_configs:
        near = difflib.get_close_matches(app_label, apps.app_configs, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(apps.app_configs))}."
        return f"There is no app {app_label!r} in INSTALLED_APPS; {known}"
    model = apps.all_models[app_label].get(name.lower())
    if any(sources.family(sender)) if subclasses else model and not model._meta.swapped:
        return None
    if model is not None:
        return f"It is swapped out: write sender=settings.{model._meta.swappable}."
    names = {known.__name__.lower(): known.__name__ for known in apps.all_models[app_label].values()}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    known = f"did you mean {names[near[0]]!r}?" if near else f"known: {', '.join(sorted(names.values()))}."
    base = "" if subclasses else " An abstract base needs subclasses=True."
    return f"There is no model {name!r} in {app_label}; {known}{base}"


def check_aliases(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W001: a receiver for a database that DATABASES does not have."""
    return [
        CheckWarning(
            f"{receiver.name} has using={receiver.options.using!r}, which is not in DATABASES: it will never run.",
            hint=f"Known: {', '.join(connections.settings)}.",
            id="signalq.W001",
        )
        for receiver in registry.all()
        if receiver.options.using is not None and receiver.options.using not in connections.settings
    ]

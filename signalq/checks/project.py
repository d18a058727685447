"""Checks of how receivers and settings go together, always run."""

from __future__ import annotations

import difflib
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning as CheckWarning
from django.db import connections
from django.db.models.signals import ModelSignal

from .. import conf, sources, wire
from ..exceptions import CeleryAppMissing
from ..receivers import registry

came_late = False
"""There was no Celery app when signalq was made ready; a thread sees one that comes later only if it is told of it."""


def look_for_celery_app() -> None:
    """Called when the apps are ready: a Celery app that comes later is what W016 tells of."""
    global came_late
    try:
        wire.celery_app()
    except CeleryAppMissing:
        came_late = True


def check_celery_app(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E001: receivers, and no Celery app that could run them. W016: one that threads do not see."""
    if not registry or not conf.current().PUBLISH:
        return []
    try:
        wire.celery_app()
    except CeleryAppMissing as error:
        message, _, hint = str(error).partition(". ")
        return [Error(f"{message}.", hint=hint, id="signalq.E001")]
    if not came_late:
        return []
    return [
        CheckWarning(
            "The Celery app is loaded after signalq: the thread that publishes may not find it, and every delivery "
            "waits for a relay.",
            hint="Import it earlier: in the project's __init__.py, 'from .celery import app as celery_app'.",
            id="signalq.W016",
        )
    ]


def check_names(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E004: a Celery task has the name of a receiver. W008: two receivers are one to MariaDB."""
    found: list[CheckMessage] = []
    seen: dict[str, str] = {}
    for name in sorted(registry):
        if _is_foreign_task(name):
            message = f"A Celery task of the project is named {name!r}, too: it gets what is for the receiver."
            found.append(Error(message, hint="Give one of them another name=...", id="signalq.E004"))
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            message = f"Receivers {other!r} and {name!r} differ in upper and lower case alone: MariaDB mixes them up."
            found.append(CheckWarning(message, hint="Give one of them another name=...", id="signalq.W008"))
    return found


def _is_foreign_task(name: str) -> bool:
    try:
        task = wire.celery_app().tasks.get(name)
    except CeleryAppMissing:
        return False
    return task is not None and not hasattr(task, wire.QUEUE_ATTRIBUTE)


def check_serializer(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E005: what is published is not what the workers accept."""
    try:
        settings: Any = wire.celery_app().conf if registry else None
    except CeleryAppMissing:
        return []
    accepted = set(settings.accept_content or ()) if settings else set()
    if not accepted or accepted & {settings.task_serializer, _TYPES.get(settings.task_serializer)}:
        return []
    return [
        Error(
            f"Messages are sent as {settings.task_serializer!r} (task_serializer), and the workers accept only "
            f"{', '.join(sorted(map(repr, accepted)))}: they refuse every one.",
            hint='CELERY_TASK_SERIALIZER = "json" and CELERY_ACCEPT_CONTENT = ["json"]',
            id="signalq.E005",
        )
    ]


_TYPES = {
    "json": "application/json",
    "msgpack": "application/x-msgpack",
    "pickle": "application/x-python-serialize",
    "yaml": "application/x-yaml",
}


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


ALL = (check_celery_app, check_senders, check_aliases, check_names, check_serializer)

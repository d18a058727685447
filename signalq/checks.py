"""System checks: a stable id, a plain message, a hint that says what to do."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error

from . import conf, publish
from .exceptions import CeleryAppMissing
from .receivers import registry


def check_celery_app(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E001: receivers, and no Celery app that could run them."""
    if not registry or not conf.current().PUBLISH:
        return []
    try:
        publish.celery_app()
    except CeleryAppMissing as error:
        message, _, hint = str(error).partition(". ")
        return [Error(f"{message}.", hint=hint, id="signalq.E001")]
    return []

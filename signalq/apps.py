"""The Django app."""

from __future__ import annotations

import contextlib

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _


class SignalqConfig(AppConfig):
    """``INSTALLED_APPS += ["signalq"]``."""

    name = "signalq"
    verbose_name = _("Async signal receivers")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make Celery tasks of the receivers; register the checks."""
        from . import checks, tasks, wire
        from .exceptions import CeleryAppMissing

        tasks.connect()
        with contextlib.suppress(CeleryAppMissing):  # the check says it
            wire.celery_app()
        register(checks.check_celery_app)
        register(checks.check_senders)
        register(checks.check_aliases)

"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SignalqConfig(AppConfig):
    """``INSTALLED_APPS += ["signalq"]``."""

    name = "signalq"
    verbose_name = _("Async signal receivers")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make Celery tasks of the receivers, serve the workers, register the checks."""
        from . import checks, extras, signals, tasks, workers

        tasks.connect()
        workers.connect()
        extras.connect()
        signals.connect()
        checks.connect()

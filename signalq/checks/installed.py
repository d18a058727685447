"""What an app that is not installed, or a process without settings, could not say for itself."""

from __future__ import annotations

import os
from typing import Any

from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.checks import CheckMessage, Error

from ..exceptions import RegistrationError


def check_configured() -> None:
    """Raises RegistrationError if this process has no settings: it could neither record an event nor run a handler."""
    if not (settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)):
        raise RegistrationError(
            "async_receiver() needs Django's settings, and none are configured in this process: set the environment "
            f'variable {ENVIRONMENT_VARIABLE} or call settings.configure(), with "signalq" in INSTALLED_APPS, and '
            "then django.setup()."
        )


def check_installed(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E003: receivers, and no app that would run them."""
    from ..receivers import registry

    if not registry or apps.is_installed("signalq"):
        return []
    first = registry.all()[0].name
    return [
        Error(
            f'There are async receivers ({first}, ...), but INSTALLED_APPS lacks "signalq": none will ever run.',
            hint='INSTALLED_APPS += ["signalq"], then manage.py migrate.',
            id="signalq.E003",
        )
    ]

"""Settings of a process that a test starts: the project's own, with the test's databases and what the test overrides.

It imports nothing of the tests' tools, as a container has none. The environment variable SIGNALQ_CHILD_SETTINGS holds
JSON: the project's "module", the name of each alias's test database in "databases", and "settings", merged into the
project's own. No mail leaves such a process unless they say so, as none leaves a Django test.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

VARIABLE = "SIGNALQ_CHILD_SETTINGS"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"


def merged(given: Any, over: Any) -> Any:
    """``over``, and of two dicts what each of them has; neither is changed."""
    if not (isinstance(given, dict) and isinstance(over, dict)):
        return over
    return {**given, **{name: merged(given.get(name), value) for name, value in over.items()}}


def read(text: str) -> dict[str, Any]:
    """The settings that the variable's ``text`` asks for.

    Raises ImproperlyConfigured where a database would be the project's own.
    """
    asked = json.loads(text)
    project = import_module(asked["module"])
    found = {name: getattr(project, name) for name in dir(project) if name.isupper()}
    names = {alias: name for alias, name in asked["databases"].items() if alias in found["DATABASES"]}
    for alias, name in names.items():
        _check(alias, name, found["DATABASES"][alias])
    found["DATABASES"] = merged(found["DATABASES"], {alias: {"NAME": name} for alias, name in names.items()})
    if django.VERSION >= (6, 1) and "MAILERS" in found:
        found["MAILERS"] = {alias: {"BACKEND": LOCMEM} for alias in found["MAILERS"]}
    else:
        found["EMAIL_BACKEND"] = LOCMEM
    return dict(merged(found, asked["settings"]))


def _check(alias: str, name: str, own: dict[str, Any]) -> None:
    """What a test's worker does is real, so it must not do it to what the project works with."""
    if name == str(own.get("NAME")) != str((own.get("TEST") or {}).get("NAME")):
        raise ImproperlyConfigured(
            f"This process would work on the project's own database {name!r}, not on a test's. Let the test ask for "
            f"a test database of {alias!r}: @pytest.mark.django_db(transaction=True, databases='__all__')."
        )


if VARIABLE in os.environ:
    globals().update(read(os.environ[VARIABLE]))

"""Processes without settings, or without the app: what is missing is named where it is missed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.integration.harness import ROOT

RECEIVER = """
from django.dispatch import Signal
from signalq import async_receiver
paid = Signal()
def ship(sender, **kwargs): ...
async_receiver(paid, name="ship", durable={durable})(ship)
"""
NOT_INSTALLED = """
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
)
django.setup()
"""
CHECK = """
from django.core.management import call_command
call_command("check")
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"} | environment
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def error(code: str, **environment: str) -> str:
    """The last line of the traceback."""
    ran = run(code, **environment)
    assert ran.returncode == 1, ran.stdout
    return ran.stderr.splitlines()[-1]


def test_importing_needs_no_settings() -> None:
    ran = run("import signalq; print(len(signalq.__all__), signalq.Created() & signalq.Changed('name'))")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("decorator", ["async_receiver", "async_batch_receiver"])
def test_a_receiver_needs_settings(decorator: str) -> None:
    told = error(RECEIVER.format(durable=True).replace("async_receiver", decorator))
    assert told.startswith("signalq.exceptions.RegistrationError: ")
    for way_out in ("DJANGO_SETTINGS_MODULE", "settings.configure()", '"signalq" in INSTALLED_APPS', "django.setup()"):
        assert way_out in told


def test_settings_that_are_named_need_not_be_loaded_yet() -> None:
    """As in a module that is imported before anything has asked for a setting."""
    assert run(RECEIVER.format(durable=True), DJANGO_SETTINGS_MODULE="tests.settings").returncode == 0


def test_the_models_need_settings() -> None:
    assert "DJANGO_SETTINGS_MODULE" in error("import signalq.models")


def test_sending_without_the_app_names_it() -> None:
    told = error(NOT_INSTALLED + RECEIVER.format(durable=True) + "paid.send(None)")
    assert 'INSTALLED_APPS lacks "signalq"' in told
    assert "manage.py migrate" in told


@pytest.mark.parametrize("durable", [True, False])
def test_a_check_names_the_app_that_is_not_installed(durable: bool) -> None:
    """Its own checks are not registered there."""
    ran = run(NOT_INSTALLED + RECEIVER.format(durable=durable) + CHECK)
    assert ran.returncode == 1
    assert "signalq.E003" in ran.stderr

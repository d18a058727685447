"""The pytest plugin and the documentation of the test kit, in projects of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

SETTINGS = """
SECRET_KEY = "not a secret"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "signalq", "shop.apps.ShopConfig"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "mysite.urls"
USE_TZ = True
STATIC_URL = "static/"
# Django 6.1 wants it.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
ALLOWED_HOSTS = ["*"]
# Nobody is there, and whoever asks for it fails.
CELERY_BROKER_URL = "redis://127.0.0.1:1"
CELERY_TASK_ALWAYS_EAGER = True
"""
URLS = """
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path


def sign_up(request):
    User.objects.create(username=request.POST["username"], email=request.POST["email"])
    return HttpResponse("Welcome")


urlpatterns = [path("sign-up/", sign_up)]
"""
CELERY = """
from celery import Celery

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""
APPS = """
from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        from . import receivers
"""
FURTHER = """
import urllib.parse
import urllib.request

import pytest
from django.contrib.auth.models import User
from shop.receivers import send_welcome
from signalq import publish


@pytest.fixture(autouse=True)
def nothing_is_published(monkeypatch):
    put = []
    monkeypatch.setattr(publish.publisher, "put", put.extend)
    yield
    assert put == []


def save():
    User.objects.create(username="ada", email="ada@example.com")


def test_a_live_server(live_server, deliveries, mailoutbox):
    data = urllib.parse.urlencode({"username": "ada", "email": "ada@example.com"}).encode()
    urllib.request.urlopen(live_server.url + "/sign-up/", data, timeout=20).close()
    assert len(deliveries.to(send_welcome)) == 1
    assert [run.state for run in deliveries.drain()] == ["done"]
    assert len(mailoutbox) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", range(3))
def test_real_commits(deliveries, mailoutbox, number):
    save()
    assert len(deliveries) == 1
    deliveries.drain(times=2)
    assert len(mailoutbox) == 2


@pytest.mark.parametrize("number", range(3))
def test_the_database_asked_for_last(deliveries, db, mailoutbox, number):
    save()
    assert len(deliveries) == 1
    deliveries.drain()
    assert len(mailoutbox) == 1


@pytest.mark.django_db
def test_captured_hooks(deliveries, django_capture_on_commit_callbacks, mailoutbox):
    with django_capture_on_commit_callbacks(execute=True):
        save()
    assert (len(deliveries), mailoutbox) == (1, [])
    with django_capture_on_commit_callbacks(execute=True):
        deliveries.drain()
    assert (len(deliveries), len(mailoutbox)) == (1, 1)


def test_nothing_and_no_database(deliveries):
    assert deliveries.drain() == deliveries.all() == []
"""


def documented() -> dict[str, str]:
    """The files that docs/testing.md shows; those with real workers are run with the other pages, by test_docs.py."""
    text = (ROOT / "docs/testing.md").read_text()
    files = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL)
    return {name: text for name, text in files if "pytest_celery" not in text}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Django project with the files of the documentation."""
    files = {
        "mysite/__init__.py": "from .celery import app as celery_app\n",
        "mysite/celery.py": CELERY,
        "mysite/settings.py": SETTINGS,
        "mysite/urls.py": URLS,
        "shop/__init__.py": "",
        "shop/apps.py": APPS,
        "test_further.py": FURTHER,
        **documented(),
    }
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    pytester.makeini("[pytest]\npython_files = test_*.py tests.py\nfilterwarnings = error\npythonpath = .")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mysite.settings")
    return pytester.path


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_the_documentation_works_as_written(pytester: pytest.Pytester, project: Path, arguments: list[str]) -> None:
    result = pytester.runpytest_subprocess(*arguments, timeout=100)
    result.assert_outcomes(passed=4 + 9)


def test_the_mixin_works_under_django_s_own_runner(project: Path) -> None:
    command = [sys.executable, "-m", "django", "test", "shop"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


def test_loading_the_plugin_imports_neither_signalq_nor_django(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    pytester.makepyfile(
        """
        import sys

        def test_without_django(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("signalq")
            assert not {"signalq", "django"} & set(sys.modules)
        """
    )
    others = ["-p", "no:django", "-p", "no:celery"]  # they may import what they like
    pytester.runpytest_subprocess(*others, timeout=60).assert_outcomes(passed=1)


@pytest.mark.parametrize("arguments", [[], ["-p", "no:django"]], ids=["unconfigured", "without pytest-django"])
def test_the_fixture_without_django_set_up_says_what_to_do(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    pytester.makepyfile("def test_it(deliveries): pass")
    result = pytester.runpytest_subprocess(*arguments, timeout=60)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ImproperlyConfigured*DJANGO_SETTINGS_MODULE*"])


def test_without_signalq_in_the_apps_it_says_so(pytester: pytest.Pytester, project: Path) -> None:
    (project / "mysite/settings.py").write_text(SETTINGS.replace('"signalq", "shop.apps.ShopConfig"', ""))
    pytester.makepyfile("def test_it(deliveries): pass")
    result = pytester.runpytest_subprocess("test_without_signalq_in_the_apps_it_says_so.py", timeout=60)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ImproperlyConfigured*INSTALLED_APPS*"])

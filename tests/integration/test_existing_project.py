"""The first steps of a user who has a Django project with Celery: install, one app, migrate, one word, restart.

The project is what `django-admin startproject` and Celery's documentation say, with Django's default database settings.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import ROOT, Process, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CELERY_PY = """\
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

INIT_PY = """\
from .celery import app as celery_app

__all__ = ("celery_app",)
"""

MODELS_PY = """\
from django.conf import settings
from django.db import models


class Profile(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    made_by = models.IntegerField()
"""

APPS_PY = """\
from django.apps import AppConfig


class AccountsConfig(AppConfig):
    default_auto_field = "django.db.models.BigAutoField"
    name = "accounts"

    def ready(self):
        from . import receivers
"""

RECEIVERS_PY = """\
import os

from django.contrib.auth.models import User
from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Profile


@receiver(post_save, sender=User)
def create_profile(sender, instance, created, **kwargs):
    if created:
        Profile.objects.create(user=instance, made_by=os.getpid())
"""

SIGN_UP = """\
import os
from django.contrib.auth.models import User
for number in range({count}):
    User.objects.create_user(f"{name}{{number}}")
print("pid", os.getpid())
"""

MADE_BY = "from accounts.models import Profile; print(*Profile.objects.values_list('made_by', flat=True))"


class Project:
    """The user's project and the commands that a user types there."""

    def __init__(self, directory: Path, broker: str) -> None:
        self.directory = directory
        self.site_packages = directory.parent / "site-packages"
        self.site_packages.mkdir()
        self.broker = broker
        # What is installed there comes before the checkout that these tests run from.
        self.env = {"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": str(self.site_packages)}

    def create(self) -> None:
        self.directory.mkdir()
        self.run(sys.executable, "-m", "django", "startproject", "mysite", ".", DJANGO_SETTINGS_MODULE="")
        self.manage("startapp", "accounts")
        for path, text in {
            "mysite/celery.py": CELERY_PY,
            "mysite/__init__.py": INIT_PY,
            "accounts/models.py": MODELS_PY,
            "accounts/apps.py": APPS_PY,
            "accounts/receivers.py": RECEIVERS_PY,
        }.items():
            (self.directory / path).write_text(text)
        self.change("mysite/settings.py", "INSTALLED_APPS = [\n", 'INSTALLED_APPS = [\n    "accounts",\n')
        with (self.directory / "mysite/settings.py").open("a") as settings:
            settings.write(f'\nCELERY_BROKER_URL = "{self.broker}"\n')
        self.manage("makemigrations", "accounts")
        self.manage("migrate")

    def change(self, path: str, old: str, new: str) -> None:
        file = self.directory / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def run(self, *command: str, **env: str) -> str:
        result = subprocess.run(
            command,
            cwd=self.directory,
            env={**os.environ, **self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def manage(self, *arguments: str) -> str:
        return self.run(sys.executable, "manage.py", *arguments)

    def shell(self, code: str) -> str:
        """What `code` prints last; Django 5.2 and later say first what the shell has imported."""
        return self.manage("shell", "--verbosity=0", "-c", code).strip()

    def sign_up(self, name: str, count: int) -> int:
        """Make `count` users in a process of its own; the number of that process."""
        return int(self.shell(SIGN_UP.format(name=name, count=count)).split()[-1])

    def made_by(self) -> list[int]:
        return [int(pid) for pid in self.shell(MADE_BY).split()]

    def install(self, wheel: Path) -> None:
        self.run(
            *[sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"],
            *["--no-index", "--target", str(self.site_packages), str(wheel)],
        )

    def worker(self) -> Process:
        command = [sys.executable, "-m", "celery", "-A", "mysite", "worker", "--loglevel=INFO", "--concurrency=2"]
        return Process("worker", command, self.directory.parent / "worker.log", self.env, cwd=self.directory)


@pytest.fixture
def project(tmp_path: Path, redis_broker: str) -> Project:
    project = Project(tmp_path / "project", redis_broker)
    project.create()
    return project


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user gets. Built without isolation: the build backend is among the tests' requirements."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "-w", str(directory), str(ROOT)], check=True, timeout=120)
    return next(directory.glob("signalq-*.whl"))


@pytest.fixture
def start_worker(project: Project) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def start() -> Process:
        worker = project.worker()
        started.append(worker)
        worker.wait_for_output(" ready.")
        return worker

    yield start
    for worker in started:
        worker.kill()
        print(worker.output()[-8000:])  # noqa: T201 - pytest shows it with a failure


def changed_lines(before: str, after: str) -> list[str]:
    diff = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in diff if line.startswith(("+ ", "- "))]


@pytest.mark.timeout(180)
def test_the_first_steps(
    project: Project, wheel: Path, start_worker: Callable[[], Process], figures: Callable[..., None]
) -> None:
    # Before: Django's own receiver runs in the process that saves.
    pid = project.sign_up("before", 1)
    assert project.made_by() == [pid]

    project.install(wheel)
    installed = project.shell("import signalq; print(signalq.__file__)")
    assert Path(installed).is_relative_to(project.site_packages), "the checkout was imported, not the wheel"
    project.change("mysite/settings.py", "INSTALLED_APPS = [\n", 'INSTALLED_APPS = [\n    "signalq",\n')
    project.manage("migrate")
    project.change(
        "accounts/receivers.py", "from django.dispatch import receiver", "from signalq import async_receiver"
    )
    project.change("accounts/receivers.py", "@receiver(", "@async_receiver(")
    changed = changed_lines(RECEIVERS_PY, (project.directory / "accounts/receivers.py").read_text())
    assert len(changed) == 4, "one word and its import"

    worker = start_worker()
    saving = project.sign_up("after", 20)
    seconds = wait_for(lambda: len(project.made_by()) >= 21, "20 profiles made by the worker", timeout=30)
    made_by = project.made_by()[1:]
    assert len(made_by) == 20
    assert saving not in made_by
    assert set(made_by) <= {process.pid for process in worker.tree()}
    assert "done" in project.manage("signalq", "status")
    figures(lines_changed_in_the_handler=2, settings_changed=1, users=20, seconds_to_done=seconds)
    assert worker.terminate() < 20

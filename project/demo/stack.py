"""Everything that the demo consists of: broker, mail server, worker, web server."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING

from project.demo.processes import Interrupts, Service, ServiceError, until
from project.embedded import EmbeddedRedis
from project.environment import RUNNING
from project.mail import Mail, MailServer, read, received

if TYPE_CHECKING:
    from pathlib import Path

PORT = 8000


class Stack:
    """Start it, use `url`, stop it. What the environment names (BROKER_URL, ...) is used and not started."""

    def __init__(self, directory: Path, interrupts: Interrupts) -> None:
        self.directory = directory
        self.interrupts = interrupts
        self.broker: EmbeddedRedis | None = None
        self._ends = ExitStack()
        self.listener = _listen()
        host, port = self.listener.getsockname()
        self.url = f"http://{host}:{port}/"
        self.worker = Service("worker", "worker", ["--concurrency=2"], directory / "worker.log")
        # The socket is ours and already open: nobody can take the port in between, and a request that comes before
        # gunicorn is ready waits instead of failing.
        descriptor = self.listener.fileno()
        web = ["--config", "python:project.server", "--bind", f"fd://{descriptor}", "project.wsgi"]
        self.web = Service("web server", "gunicorn", web, directory / "web.log", fds=[descriptor])

    @property
    def services(self) -> list[Service]:
        return [self.worker, self.web]

    def start(self) -> None:
        self._ends.callback(self.listener.close)
        os.environ["DEMO_DIR"] = str(self.directory)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
        if not os.environ.get("BROKER_URL"):
            with self.interrupts:
                self.broker = EmbeddedRedis(self.directory / "redis")
                self._ends.callback(self.broker.stop)
                os.environ["BROKER_URL"] = self.broker.start()
        if not os.environ.get("EMAIL_URL"):
            mail_server = MailServer(self.directory / "mail")
            os.environ["EMAIL_URL"] = mail_server.start()
            self._ends.callback(mail_server.stop)
        self._announce()
        self._set_up()
        for service in self.services:
            with self.interrupts:
                self._ends.callback(service.stop)
                service.start()
        until(self._answers, "the page answers", self.services)

    def kill_worker(self) -> None:
        self.worker.kill()

    def restart_worker(self) -> None:
        with self.interrupts:
            self.worker.start()

    def mails(self) -> list[Mail] | None:
        directory = self.directory / "mail"
        return [read(path) for path in received(directory)] if directory.is_dir() else None

    def stop(self) -> None:
        with self.interrupts:
            for service in self.services:
                service.ask_to_end()  # All at once, then one after the other is waited for.
            self._ends.close()

    def _announce(self) -> None:
        """For `manage.py` in another terminal: see environment.py."""
        names = ("DATABASE_URL", "BROKER_URL", "EMAIL_URL")
        running = self.directory / RUNNING
        running.touch(mode=0o600)
        running.write_text(json.dumps({name: os.environ[name] for name in names if os.environ.get(name)}))
        self._ends.callback(running.unlink, missing_ok=True)

    def _set_up(self) -> None:
        """Make the tables, and reach the broker, before anything is started that would wait for them."""
        import django
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import call_command
        from django.db import DatabaseError
        from kombu.exceptions import OperationalError

        from project import celery_app

        try:
            django.setup()
            call_command("migrate", verbosity=0)
            celery_app.connection_for_write().ensure_connection(max_retries=1, timeout=3).release()
        except ImproperlyConfigured as error:
            raise ServiceError(str(error)) from error
        except DatabaseError as error:
            raise ServiceError(f"DATABASE_URL: {error}\nUnset the variable for a SQLite file.") from error
        except OperationalError as error:
            raise ServiceError(f"BROKER_URL: {error}\nUnset the variable for a Redis of the demo's own.") from error

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=10) as response:  # noqa: S310
                return bool(response.status == 200)
        except TimeoutError:
            return False


def _listen() -> socket.socket:
    """A listening socket on the loopback: port 8000 if it is free, else any."""
    for port in (PORT, 0):
        try:
            listener = socket.create_server(("127.0.0.1", port), backlog=128)
        except OSError:
            if port == 0:
                raise
            continue
        listener.set_inheritable(True)
        return listener
    raise AssertionError("unreachable")

"""docker-compose.yml as a stage for the demo's scenario: under a project name and on ports of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from project.demo.processes import ServiceError, until
from project.mail import Mail

ROOT = Path(__file__).parents[2]
PORTS = ("WEB_PORT", "MAIL_PORT", "FLOWER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")


@functools.cache
def missing() -> str:
    """Why there is no Docker to test with; nothing if there is."""
    try:
        for command in (["docker", "compose", "version"], ["docker", "version"]):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return "Docker is not installed"
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return f"no Docker engine, or no Compose: {said[-1] if said else error}"
    return ""


class Compose:
    """The stack, with the BROKER_URL and the profiles of a .env file; a free port for each that is published."""

    def __init__(self, project: str, broker_url: str, profiles: str = "") -> None:
        self.project, self.broker_url = project, broker_url
        ports = dict.fromkeys(PORTS, "0")
        self.environment = {**os.environ, **ports, "BROKER_URL": broker_url, "COMPOSE_PROFILES": profiles}
        self.restarts = 0

    def __call__(self, *arguments: str, timeout: float = 120) -> str:
        """`docker compose ...`; raises ServiceError with what it said."""
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(ROOT / "tests/compose/published.yml")]
        command = ["docker", "compose", "--project-name", self.project, *files, *arguments]
        run = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if run.returncode:
            raise ServiceError(f"{' '.join(command)} ended with {run.returncode}:\n{run.stdout}\n{run.stderr}")
        return run.stdout

    def up(self) -> None:
        self("up", "--build", "--detach", "--wait", timeout=900)

    def down(self) -> None:
        self("--profile", "*", "down", "--volumes", "--remove-orphans")

    def address(self, service: str, port: int) -> str:
        """Host and port where it is published."""
        return self("port", service, str(port)).strip()

    def get(self, service: str, port: int, path: str) -> str:
        """What an HTTP service answers."""
        with urllib.request.urlopen(f"http://{self.address(service, port)}/{path}", timeout=10) as response:
            return str(response.read().decode())

    def containers(self) -> dict[str, dict[str, Any]]:
        """What Docker knows about the first container of each service."""
        ids = self("ps", "--all", "--quiet").split()
        inspected = json.loads(subprocess.run(["docker", "inspect", *ids], check=True, capture_output=True).stdout)
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in reversed(inspected)}

    def health(self) -> dict[str, str]:
        """Of every service but the one that ends when it is done."""
        return {
            name: each["State"]["Health"]["Status"] for name, each in self.containers().items() if name != "migrate"
        }

    def is_healthy(self) -> bool:
        return set(self.health().values()) == {"healthy"}

    def kill(self, service: str) -> None:
        """SIGKILL to every process in the container, from within, as out of memory would do it.

        What `docker kill` ends Docker takes for stopped on purpose, and does not start again.
        """
        self.restarts = self.containers()[service]["RestartCount"]
        with contextlib.suppress(ServiceError):  # the container may be gone before it can say so
            self("exec", "-T", service, "sh", "-c", "kill -KILL -1")

    def await_restart(self, service: str) -> None:
        """Until Docker has started it again."""

        def restarted() -> bool:
            container = self.containers()[service]
            return bool(container["RestartCount"] > self.restarts and container["State"]["Running"])

        until(restarted, f"Docker has started {service} again")

    def client_environment(self) -> dict[str, str]:
        """For a process outside of the containers that has Django's settings of the demo."""
        environment = dict(each.split("=", 1) for each in self.containers()["web"]["Config"]["Env"])
        addresses = {"postgres": 5432, "redis": 6379, "rabbitmq": 5672}
        urls = {name: environment[name] for name in ("DATABASE_URL", "BROKER_URL")}
        for name, url in urls.items():
            parts = urlsplit(url)
            host = self.address(str(parts.hostname), addresses[str(parts.hostname)])
            urls[name] = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{host}".lstrip("@")).geturl()
        return {**self.environment, **urls, "DJANGO_SETTINGS_MODULE": "project.settings"}

    # --- project.demo.scenario.Stage ---

    @property
    def url(self) -> str:
        return f"http://{self.address('web', 8000)}/"

    @property
    def services(self) -> list[Compose]:
        return [self]

    def check(self) -> None:
        """Docker starts again what ends; the scenario notices what does not come back."""

    def kill_worker(self) -> None:
        self.kill("worker")

    def restart_worker(self) -> None:
        self.await_restart("worker")

    def mails(self) -> list[Mail]:
        found = json.loads(self.get("mailpit", 8025, "api/v1/messages?limit=500"))["messages"]
        return [Mail(each["To"][0]["Address"], each["Subject"], each["Snippet"]) for each in found]

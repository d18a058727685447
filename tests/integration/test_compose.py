"""docker-compose.yml and the Dockerfile: the wiring, checked without Docker, and by Compose where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OURS = ["migrate", "web", "worker", "relay"]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def example_environment() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def has_compose() -> bool:
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    )


def test_the_services(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "redis", "mailpit", *OURS}


def test_one_image_is_built_once(services: dict[str, Any]) -> None:
    assert [name for name in services if "build" in services[name]] == ["migrate"]
    assert len({services[name]["image"] for name in OURS}) == 1


def test_what_is_waited_for_exists_and_can_get_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}, which has no health check"
            else:
                assert (other, wait["condition"]) == ("migrate", "service_completed_successfully")


@pytest.mark.parametrize("name", ["web", "worker", "relay"])
def test_everything_waits_for_the_migrations_and_the_broker(services: dict[str, Any], name: str) -> None:
    assert {"migrate", "redis"} <= set(services[name]["depends_on"])


def test_only_this_machine_reaches_the_ports(services: dict[str, Any]) -> None:
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_urls_name_services(services: dict[str, Any]) -> None:
    environment = example_environment()
    for variable, service in [("DATABASE_URL", "postgres"), ("BROKER_URL", "redis"), ("EMAIL_URL", "mailpit")]:
        assert f"{service}:" in environment[variable].rpartition("@")[2].rpartition("//")[2] + ":"
        assert service in services


def test_commands_name_files_that_the_image_has(services: dict[str, Any]) -> None:
    assert (ROOT / "worker" / "__main__.py").exists()
    for name in ("migrate", "relay"):
        assert services[name]["command"][1] == "project/manage.py"
    assert (ROOT / "project" / "manage.py").exists()


def test_the_image_runs_as_a_user_of_its_own() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "USER app" in lines
    assert lines.index("USER app") > max(number for number, line in enumerate(lines) if line.startswith("RUN"))


def test_the_image_gets_nothing_that_is_not_listed() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    for path in (path for paths in copied for path in paths if not path.startswith(("--", "/"))):
        assert f"!{path}" in ignored


if has_compose():

    def test_compose_accepts_it() -> None:
        result = subprocess.run(
            ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr

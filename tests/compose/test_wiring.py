"""docker-compose.yml, the Dockerfile, what is mounted: checked without Docker, and by Compose where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from project import environment
from signalq import metrics

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["migrate", "web", "worker", "relay", "flower"]
PROFILES = {"rabbitmq": "rabbitmq", "prometheus": "metrics", "grafana": "metrics"}
"""The services that are not always there."""


@pytest.fixture
def services() -> dict[str, Any]:
    return SERVICES


def lines_of_example(prefix: str = "") -> dict[str, str]:
    found = re.findall(rf"^{prefix}([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    return dict(found)


def example_environment() -> dict[str, str]:
    return lines_of_example()


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def has_compose() -> bool:
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    )


def test_the_services(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "redis", "mailpit", *OURS, *PROFILES}
    assert {name: each["profiles"] for name, each in services.items() if "profiles" in each} == {
        name: [profile] for name, profile in PROFILES.items()
    }


every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_each_is_contained(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["restart"] == ("on-failure:3" if name == "migrate" else "unless-stopped")


@every_service
def test_none_is_root(services: dict[str, Any], name: str) -> None:
    if name not in OURS:  # ours are the user of the Dockerfile, see below
        assert services[name]["user"].partition(":")[0] not in ("root", "0")


@every_service
def test_each_has_a_health_check(services: dict[str, Any], name: str) -> None:
    if name != "migrate":  # it ends
        check = services[name]["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@every_service
def test_each_image_has_a_version_and_a_stand_in(services: dict[str, Any], name: str) -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    standins = re.findall(r"^standin [a-z]+ (\S+)$", (ROOT / "tests/compose/standins.sh").read_text(), re.MULTILINE)
    for image in bases if name in OURS else [services[name]["image"]]:
        assert re.search(r":v?\d", image)
        assert image in standins


def test_postgres_is_asked_by_tcp(services: dict[str, Any]) -> None:
    """At its first start a server on the socket alone makes the database, and then ends."""
    assert "--host=127.0.0.1" in services["postgres"]["healthcheck"]["test"][1]


def test_volumes_are_declared_and_used(services: dict[str, Any]) -> None:
    mounted = [volume.split(":")[0] for each in services.values() for volume in each.get("volumes", [])]
    assert {name for name in mounted if not name.startswith(".")} == set(COMPOSE["volumes"])
    assert all((ROOT / path).exists() for path in mounted if path.startswith("."))
    # What is ours is for reading.
    files = [volume for each in services.values() for volume in each.get("volumes", []) if volume.startswith(".")]
    assert all(volume.endswith(":ro") for volume in files)


def test_one_image_is_built_once(services: dict[str, Any]) -> None:
    assert [name for name in services if "build" in services[name]] == ["migrate"]
    assert len({services[name]["image"] for name in OURS}) == 1


def test_what_is_waited_for_exists_and_can_get_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            if services[other].get("profiles", []) != service.get("profiles", []):
                assert not wait.get("required", True) or "profiles" not in services[other]
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}, which has no health check"
            else:
                assert (other, wait["condition"]) == ("migrate", "service_completed_successfully")


@pytest.mark.parametrize("name", ["web", "worker", "relay", "flower"])
def test_everything_waits_for_the_migrations_and_the_broker(services: dict[str, Any], name: str) -> None:
    assert {"migrate", "redis", "rabbitmq"} <= set(services[name]["depends_on"])


def test_only_this_machine_reaches_the_ports(services: dict[str, Any]) -> None:
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_urls_name_services(services: dict[str, Any]) -> None:
    environment = example_environment()
    for variable, service in [("DATABASE_URL", "postgres"), ("BROKER_URL", "redis"), ("EMAIL_URL", "mailpit")]:
        assert f"{service}:" in environment[variable].rpartition("@")[2].rpartition("//")[2] + ":"
        assert service in services


def test_the_example_has_the_defaults() -> None:
    """What stands there as a comment is what Compose takes without it."""
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    said = lines_of_example("#")
    assert defaults == {name: value for name, value in said.items() if name not in ("COMPOSE_PROFILES", "BROKER_URL")}
    assert f"{defaults['POSTGRES_USER']}:{defaults['POSTGRES_PASSWORD']}@" in example_environment()["DATABASE_URL"]
    assert f"{defaults['RABBITMQ_USER']}:{defaults['RABBITMQ_PASSWORD']}@rabbitmq:" in said["BROKER_URL"]
    assert environment.broker(said["BROKER_URL"]) == said["BROKER_URL"]
    assert said["COMPOSE_PROFILES"] in PROFILES.values()


def test_prometheus_asks_where_the_metrics_are(services: dict[str, Any]) -> None:
    jobs = {job["job_name"]: job for job in loaded("compose/prometheus/prometheus.yml")["scrape_configs"]}
    assert jobs["web"]["static_configs"] == [{"targets": ["web:8000"]}]
    (found,) = jobs["worker"]["dns_sd_configs"]
    worker = services["worker"]["environment"]
    assert (found["names"], str(found["port"])) == (["worker"], worker["METRICS_PORT"])
    assert any(mount.startswith(worker["PROMETHEUS_MULTIPROC_DIR"]) for mount in services["worker"]["tmpfs"])
    assert {services[name]["environment"]["METRICS"] for name in jobs} == {"1"}


def test_alerts_ask_for_metrics_that_exist() -> None:
    rules = [rule for group in loaded("compose/prometheus/alerts.yml")["groups"] for rule in group["rules"]]
    source = Path(metrics.__file__).read_text()
    for rule in rules:
        assert all(f'"{name}"' in source for name in re.findall(r"signalq_\w+", rule["expr"]))
    documented = re.findall(r"alert: (\w+)\n\s+expr: (.+)\n", (ROOT / "docs" / "monitoring.md").read_text())
    assert set(documented) <= {(rule["alert"], rule["expr"]) for rule in rules}


def test_grafana_is_given_the_dashboard(services: dict[str, Any]) -> None:
    (source,) = loaded("compose/grafana/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = loaded("compose/grafana/dashboards/signalq.yml")["providers"]
    target = services["grafana"]["volumes"][1].split(":")[1]
    assert target.startswith(provider["options"]["path"])
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == target
    # It takes whatever Prometheus is the default, by its variable.
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel} == {"${datasource}"}


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
        assert f"!{path.split('/')[0]}" in ignored


@pytest.mark.parametrize(
    ("fails", "said"), [("compose", "No Docker Compose here."), ("version", "No Docker engine answers: start it")]
)
def test_make_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, said: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\ntest "$1" != {fails}\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    done = subprocess.run(["make", "--no-print-directory", "up"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stdout.startswith(said)


if has_compose():

    def test_compose_accepts_it() -> None:
        result = subprocess.run(
            ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr

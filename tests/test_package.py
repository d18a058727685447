"""What is published: a source distribution, and the wheel that is built from it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.integration.harness import ROOT


def build(target: str, source: Path, directory: Path) -> Path:
    """As a front end does, without isolation: the backend is among the tests' requirements."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(directory, filter="data")
    (unpacked,) = directory.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", source, tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_the_library_and_its_pytest_plugin_alone(wheel: zipfile.ZipFile) -> None:
    files = [path for path in (ROOT / "signalq").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {"pytest_signalq.py", *(path.relative_to(ROOT).as_posix() for path in files)}


@pytest.mark.parametrize(
    "name",
    [
        "signalq/py.typed",
        "signalq/migrations/0001_initial.py",
        "signalq/management/commands/signalq.py",
        "signalq/templates/admin/signalq/delivery/change_list.html",
        "signalq/locale/de/LC_MESSAGES/django.mo",
        "signalq/static/signalq/panel.css",
        "signalq/static/signalq/htmx.LICENSE",
        "signalq-{version}.dist-info/licenses/LICENSE",
        "signalq-{version}.dist-info/entry_points.txt",
    ],
)
def test_the_wheel_has(wheel: zipfile.ZipFile, name: str) -> None:
    from signalq import __version__

    assert wheel.read(name.format(version=__version__)) or name.endswith("py.typed")


def test_the_source_has_what_its_tests_need(source: Path) -> None:
    needed = {"LICENSE", "CHANGELOG.md", "Makefile", "mkdocs.yml", "tests", "project", "worker", "docs", "benchmarks"}
    assert needed <= {path.name for path in source.iterdir()}


def test_the_matrix_is_what_the_classifiers_promise() -> None:
    project, matrix = ((ROOT / name).read_text() for name in ("pyproject.toml", "noxfile.py"))
    for name, classifier in {"PYTHONS": "Programming Language :: Python", "DJANGOS": "Framework :: Django"}.items():
        promised = re.findall(rf'"{classifier} :: (\d\.\d+)"', project)
        assert f"{name} = {promised}".replace("'", '"') in matrix

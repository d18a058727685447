"""The tests on each Python, Django and Celery, at the lower bounds, and the package: `make matrix`.

    make matrix ARGS="--list"                                 what there is
    make matrix ARGS="-s tests-3.10-django5.2-celery5.5"      one
    make matrix ARGS="-k 3.13"                                one Python; also -k django6.0, -k "3.12 and celery5.6"
    make matrix ARGS="-t corner"                              the oldest, the newest, and one between
    make matrix ARGS="-s lowest -- tests/test_outbox.py -x"   pytest's own arguments behind the dashes

Pythons are found on PATH and in pyenv; none is fetched, and a session whose Python is missing says so and is left out.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
DJANGOS = ["5.2", "6.0", "6.1"]
CELERYS = ["5.5", "5.6", "5.7"]

CORNERS = {("3.10", "5.2", "5.5"), ("3.12", "6.0", "5.6"), ("3.13", "6.1", "5.7"), ("3.14", "6.1", "5.7")}
MATRIX = [
    (python, django, celery)
    for python, django, celery in itertools.product(PYTHONS, DJANGOS, CELERYS)
    if not (python in {"3.10", "3.11"} and django != "5.2")  # Django 6 needs Python 3.12
]

# Not the directories, which mostly wait for processes and browsers, nor what measures or is the documentation's:
# `make test` runs all of it.
UNIT_TESTS = sorted(
    {*map(str, Path("tests").glob("test_*.py"))}
    - {"tests/test_admin_speed.py", "tests/test_docs.py", "tests/test_hot_path.py"}
)

# Before PATH, where pyenv's shims have each name but run the chosen version alone.
_pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join([*map(str, _pyenv.glob("versions/3.*/bin")), os.environ["PATH"]])


def add_tests(python: str, django: str, celery: str) -> None:
    tags = ["corner"] if (python, django, celery) in CORNERS else []

    @nox.session(python=python, name=f"tests-{python}-django{django}-celery{celery}", tags=tags)
    def tests(session: nox.Session) -> None:
        """The unit tests, with the newest release of each."""
        session.install("--only-binary", ":all:", "-e", ".[test]", f"Django~={django}.0", f"celery~={celery}.0")
        run_tests(session)


for combination in MATRIX:
    add_tests(*combination)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The unit tests, with the oldest release of everything that pyproject.toml allows."""
    session.install("--only-binary", ":all:", "--resolution", "lowest-direct", "-e", ".[test]")
    run_tests(session)


def run_tests(session: nox.Session) -> None:
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", *(session.posargs or UNIT_TESTS))


@nox.session
def package(session: nox.Session) -> None:
    """dist/: a source distribution, and the wheel that is built from it, both looked at."""
    session.install("--only-binary", ":all:", "build", "twine", "check-wheel-contents")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    files = sorted(map(str, Path("dist").iterdir()))
    session.run("twine", "check", "--strict", *files)
    session.run("check-wheel-contents", *(file for file in files if file.endswith(".whl")))

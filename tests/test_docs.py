"""The documentation: it builds, it fetches nothing, and each of its code blocks is run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import yaml
from django.core.management import load_command_class
from django.db import connection, transaction

import signalq
from signalq.conf import Settings
from signalq.options import OptionsDict
from tests.docs.blocks import PAGES, Block, blocks
from tests.integration.harness import ROOT

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from pathlib import Path

pytest_plugins = ["pytester"]

SITE = ROOT / "tests/docs/site"
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
RUN = {
    "python": "test_the_python_of_a_page_runs",
    "sql": "test_the_sql_runs",
    "yaml": "test_an_alert_names_metrics_that_its_page_explains",
    "": "test_a_named_command_exists",
    "console": "tests/docs/test_start.py",
    "diff": "tests/docs/test_start.py",
}
"""The test that runs a block, by its language."""
ONLY_IN = {"console": "start.md", "diff": "start.md"}
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//|url\(["']?(?:https?:)?//|@import\s+["']?http"""
)


def write_project(directory: Path, python: list[Block]) -> None:
    """A Django project with the files that the blocks are; what names no file is imported, or a test, by itself."""
    shutil.copytree(SITE, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for block in python:
        text = block.text
        if name := block.file:
            path = directory / name
        else:
            is_test = re.search(r"^def test_", text, re.MULTILINE)
            path = directory / (f"test_at_{block.line}.py" if is_test else f"shop/snippet_at_{block.line}.py")
            # A piece of settings goes on from the settings.
            text = "from mysite.settings import *\n" + text
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != directory:
            (path.parent / "__init__.py").touch()
        path.write_text(text)


@pytest.mark.timeout(240)  # one page starts real workers
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, page: Path) -> None:
    python = [block for block in blocks(page, "python") if page.name not in ONLY_IN.values()]
    write_project(pytester.path, python)
    pytester.makeini("[pytest]\npython_files = test*.py\nfilterwarnings = error\npythonpath = .")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mysite.settings")
    tests = sum(len(re.findall(r"^(?:    )?def test_", block.text, re.MULTILINE)) for block in python)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=220)
    result.assert_outcomes(passed=tests + len(list((SITE / "zz").glob("test_*.py"))))


@pytest.mark.django_db(databases=["default"])
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")], ids=lambda page: page.name)
def test_the_sql_runs(page: Path) -> None:
    """A page's blocks one after another: a later one may need an earlier one's tables."""
    with transaction.atomic(), connection.cursor() as cursor:
        for block in blocks(page, "sql"):
            cursor.execute(block.text)
        transaction.set_rollback(True)


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "yaml")], ids=str)
def test_an_alert_names_metrics_that_its_page_explains(block: Block) -> None:
    explained = set(re.findall(r"^\| `(\w+)", block.page.read_text(), re.MULTILINE))
    for rule in yaml.safe_load(block.text):
        named = set(re.findall(r"signalq_\w+", rule["expr"]))
        assert named
        assert named <= explained


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_is_of_a_kind_that_some_test_runs(page: Path) -> None:
    for block in blocks(page):
        assert block.language in RUN, f"{block}: no test runs {block.language!r}"
        assert ONLY_IN.get(block.language, page.name) == page.name, f"{block}: {RUN[block.language]} does not run it"


def options_of(parser: ArgumentParser) -> dict[str, set[str]]:
    """The options of each subcommand."""
    (subparsers,) = (action for action in parser._actions if action.dest == "subcommand")
    assert isinstance(subparsers.choices, dict)
    return {name: set(parser._option_string_actions) for name, parser in subparsers.choices.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_named_command_exists(page: Path) -> None:
    text = page.read_text()
    known = options_of(load_command_class("signalq", "signalq").create_parser("manage.py", "signalq"))
    for command, rest in re.findall(r"manage\.py signalq ([a-z]+)((?: +(?:--)?[\w.=-]+)*)", text):
        assert command in known
        assert set(re.findall(r"--[\w-]+", rest)) <= known[command], f"{command}{rest}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^(?:make|`make) ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > 10
    for file in files:
        assert (found := FETCHED.search(file.read_text())) is None, f"{file.name}: {found}"


def test_everything_public_is_in_the_reference(site: Path) -> None:
    pages = {name: (site / f"{name}.html").read_text() for name in ("api", "options", "settings")}
    names = {
        name: {anchor.rpartition(".")[2] for anchor in re.findall(r'id="(signalq\.[\w.]+)"', page)}
        for name, page in pages.items()
    }
    assert set(signalq.__all__) - {"ANY"} <= names["api"]
    assert set(OptionsDict.__annotations__) - {"dispatch_uid", "weak"} <= names["options"]
    assert {field.name for field in fields(Settings)} == names["settings"] - {"Settings"}

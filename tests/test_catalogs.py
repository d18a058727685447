"""Each catalog has what the sources have, all of it translated, and compiled.

Needs no gettext tools: sources are read as Python and Django read them, catalogs by Babel.
"""

from __future__ import annotations

import ast
import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.utils.translation.template import templatize

from tests.integration.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PACKAGE = ROOT / "signalq"
LANGUAGES = sorted(path.name for path in (PACKAGE / "locale").iterdir())

Texts = tuple[str, ...]
"""A text, or its singular and plural."""


ARGUMENTS = {"_": 1, "gettext": 1, "gettext_lazy": 1, "ngettext": 2}


def of_python(path: Path) -> Iterator[Texts]:
    """Also from within f-strings, where xgettext does not look."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ARGUMENTS:
            yield tuple(ast.literal_eval(argument) for argument in node.args[: ARGUMENTS[node.func.id]])


def of_template(path: Path) -> Iterator[Texts]:
    """As makemessages does it: from what Django makes of a template, one line of what looks like Python."""
    line = " ".join(templatize(path.read_text()).split())
    for _, texts, _, _ in extract("python", io.BytesIO(line.encode())):
        yield (texts,) if isinstance(texts, str) else tuple(texts)


def sources() -> set[Texts]:
    found = [texts for path in PACKAGE.rglob("*.py") for texts in of_python(path)]
    return {*found, *(texts for path in PACKAGE.rglob("*.html") for texts in of_template(path))}


def catalog(language: str, kind: str = "po") -> Catalog:
    path = PACKAGE / f"locale/{language}/LC_MESSAGES/django.{kind}"
    with path.open("rb") as file:
        return read_po(file, locale=language) if kind == "po" else read_mo(file)


def texts(known: Catalog) -> dict[Texts, Texts]:
    as_tuple: Callable[[Any], Texts] = lambda text: (text,) if isinstance(text, str) else tuple(text)  # noqa: E731
    return {as_tuple(message.id): as_tuple(message.string) for message in known if message.id}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_catalog_has_what_the_sources_have(language: str) -> None:
    """make messages"""
    known = texts(catalog(language)).keys()
    assert sources() - known == set(), "missing in the catalog: make messages"
    assert known - sources() == set(), "no longer in the sources: make messages"
    assert not catalog(language).obsolete


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_of_it_is_translated_with_the_same_placeholders(language: str) -> None:
    known = catalog(language)
    assert [message.id for message in known if message.id and message.fuzzy] == []
    assert [text for text, translated in texts(known).items() if not all(translated)] == []
    assert [(message.id, errors) for message, errors in known.check()] == []
    for text, translated in texts(known).items():
        assert {*re.findall(r"%\(\w+\)\w|`", text[-1])} == {*re.findall(r"%\(\w+\)\w|`", translated[-1])}, text


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_compiled_is_what_is_written(language: str) -> None:
    """make messages"""
    assert texts(catalog(language, "mo")) == texts(catalog(language))

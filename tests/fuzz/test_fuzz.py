"""Every input of the corpus, and a few seconds of fuzzing where the fuzzer is installed; `make fuzz` takes longer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.__main__ import NAMES, run
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = Path(__file__).parent / "corpus"

pytestmark = pytest.mark.usefixtures("temporary_receivers")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.fault(18, 32)
def test_the_corpus_breaks_no_promise(name: str) -> None:
    seeds = sorted((CORPUS / name).iterdir())
    assert len(seeds) > 5
    for seed in seeds:
        TARGETS[name](seed.read_bytes())


if importlib.util.find_spec("atheris"):  # there is no wheel for each system and Python

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.fault(18, 32)
    def test_fuzzing_breaks_no_promise(name: str, long: bool, figures: Callable[..., None]) -> None:
        executed, output = run(name, seconds=30 if long else 3, seed=20)
        assert executed > 100, output
        figures(executions=executed, seed=20)

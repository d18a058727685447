"""The saving process dies: rows 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run

pytestmark = [pytest.mark.timeout(400)]


@pytest.mark.fault(1)
def test_killed_between_commit_and_publish(run: Run, figures: Callable[..., None]) -> None:
    """Half of the deaths in the first hook after the commit, where the hand-written one sends; half anywhere."""
    kills = 200 if run.long else 10
    run.worker()
    run.finish(run.mill(seed=11, kills=kills, die="after"))
    run.finish(run.mill(seed=12, kills=kills, die="random"))
    seconds = run.converge()
    figures(**run.check(seeds="11, 12", seconds_to_converge=seconds))


@pytest.mark.fault(2)
def test_killed_before_the_commit(run: Run, figures: Callable[..., None]) -> None:
    """Nothing of it is handled. Among the requests are some that roll back, or roll back to a savepoint."""
    run.worker()
    run.finish(run.mill(seed=21, kills=200 if run.long else 10, die="before"))
    run.finish(run.mill(seed=22, requests=500 if run.long else 60))
    seconds = run.converge()
    # Before the commit the hand-written one has sent nothing either: it loses nothing here.
    figures(**run.check(bites=False, seeds="21, 22", seconds_to_converge=seconds))

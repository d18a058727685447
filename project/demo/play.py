"""The scenario, played on a stage that is up, then checked and reported. Django has to be set up for its database."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from project.demo import report
from project.demo.checks import Checks
from project.demo.processes import say
from project.demo.scenario import Scenario

if TYPE_CHECKING:
    from project.demo.scenario import Stage


def play(stage: Stage) -> int:
    """The exit status: 0 if every expectation holds."""
    began = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began:5.1f} s  {text}")

    scenario = Scenario(stage, tell)
    problem = ""
    try:
        scenario.play()
    except TimeoutError as error:
        problem = str(error)
    tell("checking")
    mails = stage.mails()
    found = Checks(scenario, mails).all()
    say(f"\n{report.table(scenario)}\n\n{report.mails(mails)}\n\nExpectations:\n{report.expectations(found)}\n")
    if problem:
        say(f"The scenario was not played to its end: {problem}", sys.stderr)
    failed = sum(not each.holds for each in found) + bool(problem)
    say(f"{len(found)} expectations, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0

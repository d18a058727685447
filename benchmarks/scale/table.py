"""A family's figures as a table: the first column says what of, each other cell holds the figure of every round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.goals import figure
from benchmarks.processes import say
from benchmarks.report import short

Row = dict[str, str | list[float]]


def by_turns(
    column: str, cases: Sequence[float], rounds: int, measure: Callable[[float], dict[str, float]]
) -> list[Row]:
    """`measure` each of `cases` in each round: what disturbs the machine disturbs them all."""
    rows: list[Row] = [{column: f"{case:g}"} for case in cases]
    for _ in range(rounds):
        for case, row in zip(cases, rows, strict=True):
            found = measure(case)
            say(f"  {column} {case:g}: {', '.join(f'{value:,.2f} {title}' for title, value in found.items())}")
            for title, value in found.items():
                row.setdefault(title, []).append(value)  # type: ignore[union-attr]
    return rows


def markdown(found: dict[str, list[Row]]) -> str:
    """Medians, with the least and the most of the rounds."""
    return "\n".join(line for name, rows in found.items() for line in (f"### {name}", "", *_lines(rows), ""))


def _lines(rows: list[Row]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(_cell(row.get(column, [])) for column in columns)} |" for row in rows),
    ]


def _cell(value: str | list[float]) -> str:
    if isinstance(value, str):
        return value
    found = figure(value)
    if found is None:
        return "–"
    spread = f" ({short(min(value))} to {short(max(value))})" if len(value) > 1 else ""
    return short(found.median) + spread

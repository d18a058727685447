"""A run as a table, as JSON and as plots."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS, Goal, figure, passed
from benchmarks.lab import MAIN, Notebook
from benchmarks.variants import VARIANTS

PLOTS = {
    "capture-many": ("capture", "many", "One transaction of many saves: µs a save"),
    "capture-one": ("capture", "one", "One save a transaction: µs a save"),
    "worker": ("worker", "insert", "Two worker processes, load and insert: handlers a second"),
}
BAR, GAP, LEFT, WIDTH = 18, 8, 260, 760


def columns(notebook: Notebook) -> list[str]:
    """The databases and brokers measured, the main one first."""
    found = dict.fromkeys(key[0] for key in notebook.values)
    return sorted(found, key=lambda column: column != MAIN)


def table(notebook: Notebook) -> str:
    """Goal, figure, quartiles, pass or not; then the other columns, and what every variant measured."""
    lines = ["| family | what | goal | figure | quartiles (rounds) | pass |", "|---|---|---|---|---|---|"]
    lines += [_goal_line(goal, notebook) for goal in GOALS]
    others = columns(notebook)[1:]
    if others:
        lines += ["", f"| what, without a goal | {' | '.join(others)} |", "|---" * (len(others) + 1) + "|"]
        for goal in (goal for goal in GOALS if goal.columns):
            cells = [_cell(goal, notebook, column) for column in others]
            lines.append(f"| {goal.family}: {goal.title} | {' | '.join(cells)} |")
    lines += ["", *_figures(notebook)]
    lines += ["", *(f"- not measured: {what}: {why}" for what, why in notebook.failures.items())]
    return "\n".join(lines).rstrip() + "\n"


def _goal_line(goal: Goal, notebook: Notebook) -> str:
    found = figure(goal.values(notebook, MAIN))
    if found is None:
        return f"| {goal.family} | {goal.title} | {goal.bound} | not measured, or the rate was not reached | | |"
    verdict = "yes" if passed(goal, found) else "**no**"
    spread = f"{short(found.low)} to {short(found.high)} ({found.rounds})"
    return f"| {goal.family} | {goal.title} | {goal.bound} | {short(found.median)} | {spread} | {verdict} |"


def _cell(goal: Goal, notebook: Notebook, column: str) -> str:
    found = figure(goal.values(notebook, column))
    return f"{short(found.median)} ({short(found.low)} to {short(found.high)})" if found else "–"


def _figures(notebook: Notebook) -> list[str]:
    lines = ["| column | family | figure | variant | median | quartiles (rounds) |", "|---|---|---|---|---|---|"]
    for (column, family, metric, name), values in notebook.values.items():
        if found := figure(values):
            title = VARIANTS[name].title if name in VARIANTS else f"{int(name):,} rows"
            spread = f"{short(found.low)} to {short(found.high)} ({found.rounds})"
            lines.append(f"| {column} | {family} | {metric} | {title} | {short(found.median)} | {spread} |")
    return lines


def short(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3f}" if abs(number) < 1 else f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def as_json(notebook: Notebook) -> str:
    """Every figure of every round: the table can be made again from it."""
    rows: list[dict[str, Any]] = [
        {"column": column, "family": family, "metric": metric, "variant": name, "values": values}
        for (column, family, metric, name), values in notebook.values.items()
    ]
    goals = []
    for goal in GOALS:
        found = figure(goal.values(notebook, MAIN))
        verdict = {"median": found and found.median, "pass": passed(goal, found)}
        goals.append({"family": goal.family, "title": goal.title, "goal": goal.bound, **verdict})
    whole = {"facts": notebook.facts, "goals": goals, "figures": rows, "failures": notebook.failures}
    return json.dumps(whole, indent=1)


def plots(notebook: Notebook, directory: Path) -> list[Path]:
    """A bar for each variant, its median, with a line from quartile to quartile."""
    written = []
    for name, (family, metric, title) in PLOTS.items():
        bars = []
        for (column, its_family, its_metric, variant), values in notebook.values.items():
            found = figure(values)
            if (column, its_family, its_metric) == (MAIN, family, metric) and found:
                bars.append((VARIANTS[variant].title, found.median, found.low, found.high))
        if bars:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f"{name}.svg"
            path.write_text(_svg(title, sorted(bars, key=lambda bar: bar[1])))
            written.append(path)
    return written


def _svg(title: str, bars: list[tuple[str, float, float, float]]) -> str:
    height = 40 + len(bars) * (BAR + GAP)
    scale = (WIDTH - LEFT - 80) / max(high for *_, high in bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, (label, median, low, high) in enumerate(bars):
        top = 32 + number * (BAR + GAP)
        middle = top + BAR / 2
        colour = "#2a6f97" if label.startswith("signalq") else "#b8b8b8"
        parts += [
            f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{median * scale:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{LEFT + low * scale:.1f} {middle}H{LEFT + high * scale:.1f}" stroke="#000"/>',
            f'<text x="{LEFT + high * scale + 6:.1f}" y="{middle + 4}">{short(median)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"

"""What subcommands share: arguments, the aliases that they may name, tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def age(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``12h``, ``7d`` or a plain number; for ``type=`` of an argument."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write 90s, 15m, 12h or 7d.")
    return seconds


def alias(options: dict[str, Any]) -> str:
    """The alias that ``--database`` names, or "default". Raises CommandError for one that DATABASES does not have."""
    using = options["database"] or "default"
    if using not in connections:
        raise CommandError(f"DATABASES has no {using!r}; it has {', '.join(connections)}.")
    return str(using)


class Progress:
    """How far a long piece of work is: one line that grows on a terminal, plain lines where it goes into a file."""

    def __init__(self, command: BaseCommand, total: int) -> None:
        self._out, self._total = command.stdout, max(total, 1)
        self._done = self._told = 0
        self._is_terminal = command.stdout.isatty()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        tenths = self._done * 10 // self._total
        if self._is_terminal:
            bar = ("#" * min(tenths, 10)).ljust(10, ".")
            self._out.write(f"\r[{bar}] {self._done:,} of {self._total:,}", ending="")
        elif tenths > self._told and self._done < self._total:
            self._told = tenths
            self._out.write(f"{self._done:,} of {self._total:,}")

    def end(self) -> None:
        """Nothing more comes: what is written next has a line of its own."""
        if self._is_terminal and self._done:
            self._out.write("")


def table(command: BaseCommand, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write ``rows`` under ``head``, in columns."""
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells if column < len(row)) for column in range(len(head))]
    for row in cells:
        command.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())

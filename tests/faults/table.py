"""The table of faults: what each row does, and what its tests measured, printed at the end and kept as Markdown.

A test belongs to a row by its mark, `@pytest.mark.fault(3)`, wherever it stands, and says what it measured through the
fixture `figures`. Figures named in COLUMNS have a column of their own; others are listed beside them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROWS = {
    1: "kill -9 of the saving process between commit and publish",
    2: "kill -9 of the saving process before the commit; rollback; rollback of a savepoint only",
    3: "kill -9 of the whole worker tree under load, again and again",
    4: "kill -9 of a worker's child in the middle of a handler, before and after its writes",
    5: "a handler that always kills its process",
    6: "Redis frozen (SIGSTOP) while saving",
    7: "RabbitMQ frozen while saving",
    8: "the broker's port refused",
    9: "Redis restarted without persistence, with a full queue",
    10: "FLUSHALL; `maxmemory` reached",
    11: "RabbitMQ's memory alarm",
    12: "the queue deleted while publishing",
    13: "kill -9 of the relay at random",
    14: "2 to 8 relays at once",
    15: "every database connection terminated at random",
    16: "the database server restarted",
    17: "the disk of the outbox is full",
    18: "poison in the queue",
    19: "old worker and new web process, and the other way round",
    20: "the row deleted before its handler runs; a field of a snapshot renamed",
    21: "a backlog of 100,000 with the workers stopped, then started",
    22: "SIGTERM in the middle of `commit()`",
    23: "gunicorn with preload, uWSGI prefork, gevent",
    24: "the same dead letter replayed twice at once",
    25: "an `on_commit` callback of somebody else raises before ours",
    26: "a handler whose own save triggers itself",
    27: "TypeError, KeyboardInterrupt, SystemExit, DatabaseError while the outbox is written",
    28: "a handler swallows an IntegrityError; a broken transaction; `atomic(durable=True)`; `close_old_connections()`",
    29: "handlers of many deliveries update the same few rows, 2 workers",
    30: "savepoints by hand; `set_autocommit(False)`; REPEATABLE READ; a connection pool",
    31: "two deliveries of one object in a chunk, the first fails after changing its instance",
    32: "NUL, lone surrogates, NaN, 1e16, huge integers in a signal's arguments",
}
COLUMNS = ["kills", "deliveries", "lost", "ghosts", "doubled", "stalled", "outside_doubled", "control_lost"]
"""`lost` to `stalled` have to be 0; `outside_doubled` is reported; `control_lost` shows that the fault did bite."""


BEGIN, END = "<!-- the table, written by `make faults` -->", "<!-- end of the table -->"


@dataclass
class Case:
    """One test of a row."""

    row: int
    where: str
    passed: bool
    figures: dict[str, object] = field(default_factory=dict)


CASES: list[Case] = []


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _lines(cases: Iterable[Case]) -> Iterator[list[str]]:
    by_row: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        by_row[case.row].append(case)
    for row in sorted(by_row):
        measured = [case for case in by_row[row] if case.figures]
        for case in measured:
            own = [shown(case.figures[name]) if name in case.figures else "" for name in COLUMNS]
            rest = [
                f"{name.replace('_', ' ')} {shown(value)}"
                for name, value in case.figures.items()
                if name not in COLUMNS
            ]
            yield [str(row), ROWS[row], case.where, *own, "; ".join(rest), "pass" if case.passed else "FAIL"]
        plain = [case for case in by_row[row] if not case.figures]
        if plain:
            failed = sum(not case.passed for case in plain)
            where = ", ".join(sorted({case.where for case in plain if case.where}))
            verdict = f"FAIL ({failed})" if failed else "pass"
            yield [str(row), ROWS[row], where, *[""] * len(COLUMNS), f"{len(plain)} tests", verdict]


def markdown(cases: Iterable[Case]) -> str:
    """The table, the rows in their order; a row that has more than one case has a line for each that measured."""
    head = ["#", "fault", "where", *(name.replace("_", " ") for name in COLUMNS), "besides", ""]
    rows = [head, ["---"] * len(head), *_lines(cases)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def totals(cases: Iterable[Case]) -> str:
    """What the figures add up to. With 0 seen in N the rate is below 3 / N, with 95 % confidence."""
    cases = list(cases)
    kills = sum(int(str(case.figures.get("kills", 0))) for case in cases)
    deliveries = sum(int(str(case.figures.get("deliveries", 0))) for case in cases if "lost" in case.figures)
    wrong = sum(int(str(case.figures.get(name, 0))) for case in cases for name in ("lost", "ghosts", "doubled"))
    bound = f", which bounds the rate to {3 / deliveries:.1g} with 95 % confidence" if deliveries and not wrong else ""
    return f"{kills} kills; {wrong} lost, ghosts or doubled in {deliveries} deliveries{bound}."


def write(path: Path, cases: Iterable[Case]) -> None:
    """Put the table where `path` has the place for it, between BEGIN and END."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    cases = list(cases)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, Django {django.get_version()}"
    stamp = f"{datetime.now(timezone.utc):%Y-%m-%d}, {machine}: {totals(cases)}"
    path.write_text(f"{before}{BEGIN}\n{stamp}\n\n{markdown(cases)}{END}{after}")


def main(page: str, *files: str) -> int:
    """Print the table of what sessions have noted in `files`, and keep it in `page`; 1 unless all have passed."""
    cases = [Case(**case) for file in files for case in json.loads(Path(file).read_text())]
    write(Path(page), cases)
    print(markdown(cases), totals(cases), sep="\n")  # noqa: T201
    failed = sorted({case.row for case in cases if not case.passed})
    missing = sorted(set(ROWS) - {case.row for case in cases})
    print(f"failed: {failed or 'none'}; rows that nothing has tested: {missing or 'none'}")  # noqa: T201
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

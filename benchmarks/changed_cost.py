"""What a Changed in when= costs a load and a save of its model.

    python -m benchmarks.changed_cost

CPU time on SQLite in memory, no broker. The same rows are loaded and saved as three models in turn: one that nothing
watches, and two proxies of it with one and with five fields watched. Each figure is the best of several rounds; the
ratios are within one run. With a database across a network the same microseconds are a smaller part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

ROWS = 500
ROUNDS = 15
WATCHED = {0: [], 1: ["email"], 5: ["email", "username", "first_name", "is_active", "last_login"]}


def main() -> None:
    """Print the table."""
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "signalq"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        SIGNALQ={"PUBLISH": False, "RELAY": False},
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command
    from django.db import transaction

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        best = _measured({number: _model(number, fields) for number, fields in WATCHED.items()})
    lines = ["| work | nothing watched | 1 field watched | 5 fields watched |", "|---|---|---|---|"]
    for work, times in best.items():
        cells = [f"{times[n] * 1e6:.1f} µs ({times[n] / times[0]:.2f})" for n in WATCHED]
        lines.append(f"| {work} | {' | '.join(cells)} |")
    print("\n".join(lines))  # noqa: T201


def _model(number: int, fields: list[str]) -> Any:
    from django.contrib.auth.models import User
    from django.db.models.signals import post_save

    from signalq import Changed, async_receiver

    meta = type("Meta", (), {"proxy": True, "app_label": "auth"})
    model = type(f"User{number}", (User,), {"__module__": __name__, "Meta": meta})
    if fields:
        # Never true, so that what is measured is the condition and not the capture.
        when = Changed(*fields, to=object())
        async_receiver(post_save, sender=model, when=when, name=f"measured{number}")(lambda **kwargs: None)
    return model


def _measured(models: dict[int, Any]) -> dict[str, dict[int, float]]:
    models[0].objects.bulk_create(models[0](username=str(i), email="a@example.org") for i in range(ROWS))
    rows = {number: list(model.objects.all()) for number, model in models.items()}

    def save(number: int, email: str) -> None:
        for row in rows[number]:
            row.email = email
            row.save()

    best: dict[str, dict[int, float]] = {}
    for turn in range(ROUNDS):
        for number, model in models.items():
            works: dict[str, Callable[[], Any]] = {
                "load": lambda model=model: list(model.objects.all()),
                "save, one field changed": lambda number=number, turn=turn: save(number, f"{turn}@example.org"),
                "save, nothing changed": lambda number=number, turn=turn: save(number, f"{turn}@example.org"),
            }
            for work, do in works.items():
                started = time.process_time()
                do()
                spent = (time.process_time() - started) / ROWS
                known = best.setdefault(work, {})
                known[number] = min(spent, known.get(number, spent))
    return best


if __name__ == "__main__":
    main()

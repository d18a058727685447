"""What came of it, read from the database of the processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Count

from signalq.models import Delivery
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Callable

# The names of the receivers in shop/receivers.py, which this process must not import: it would be connected then.
NAMES = ["first", "second", "third"]


def states(alias: str) -> dict[str, int]:
    rows = Delivery.objects.using(alias).order_by().values_list("state")
    return dict(rows.annotate(n=Count("pk")))


def all_done(alias: str, count: int) -> Callable[[], bool]:
    return lambda: states(alias) == {"done": count}


def check_each_author_has_each_effect_once(alias: str) -> None:
    authors = {str(pk) for pk in Author.objects.using(alias).values_list("pk", flat=True)}
    effects = Effect.objects.using(alias).values_list("receiver", "object_pk")
    expected = sorted((name, pk) for name in NAMES for pk in authors)
    assert sorted(effects) == expected, "lost, doubled or never meant to be"

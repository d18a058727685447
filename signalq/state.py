"""The states of a delivery, and the expressions that its queries are made of."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Func, Q
from django.db.models.functions import Now
from django.db.models.lookups import In
from django.db.models.sql import Query
from django.utils.translation import gettext_lazy as _


class State(models.TextChoices):
    """Where a delivery is on its way."""

    WAITING = "waiting", _("waiting")
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    DEAD = "dead", _("dead")
    DISCARDED = "discarded", _("discarded")


def after(seconds: float) -> Any:
    """The database's time in ``seconds``, as an expression."""
    return models.ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=models.DateTimeField())


@functools.lru_cache(maxsize=1_000)
def moment(using: str, seconds: float | None = None) -> tuple[str, tuple[Any, ...]]:
    """The database's time, in ``seconds`` if given, as SQL and its parameters; kept, as it takes long to compile."""
    query = Query(None)
    expression: Any = Now() if seconds is None else after(seconds)
    sql, parameters = query.get_compiler(using).compile(expression.resolve_expression(query))
    return sql, tuple(parameters)


class Unindexed(Func):
    """A column's value as no index has it, so that the query looks elsewhere.

    An outbox at rest has no queued rows, and by such statistics an index on the state is the best way to any. In the
    next rush every claim would read all that is queued to find its hundred ids, until the table is analysed again.
    """

    template = "(%(expressions)s || '')"
    output_field = models.CharField()

    def as_mysql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """MariaDB takes || for OR."""
        return self.as_sql(compiler, connection, template="CONCAT(%(expressions)s, '')", **context)


class Unsorted(Func):
    """An id, not to be sorted by where SQLite has it sorted already: it would read the table for the first of a key."""

    template = "%(expressions)s"

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """A plus sign keeps an index away from a column."""
        return self.as_sql(compiler, connection, template="+%(expressions)s", **context)


KEY_ORDER = ("finished_at", Unsorted("id"))
"""Oldest first among the open ones of a key, as the index has them: they have no finished_at."""


def in_state(*states: State) -> Q:
    """For rows that are found by their ids or their key."""
    return Q(In(Unindexed("state"), list(states)))


def for_receivers(names: Iterable[str]) -> Q:
    """For rows that are found by their ids or their key."""
    return Q(In(Unindexed("receiver"), list(names)))

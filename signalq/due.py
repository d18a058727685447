"""What the relay asks of an outbox: what has come due, to take it, and to prune what is old.

Each query is for one receiver and one state, which the index ``signalq_due`` has in the order of ``due_at``: what is
left alone, for an hour or in a million rows, is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from django.db import connections, models, transaction
from django.db.models import F
from django.db.models.functions import Now

from . import conf
from .state import State, after, in_state

if TYPE_CHECKING:
    from typing_extensions import Self

    from .models import Delivery

M = TypeVar("M", bound=models.Model)

MAX_LOST_LEASES = 3
"""A delivery whose worker died this often is dead: its handler may be what kills them."""
REPEATS_EVENLY = 2
"""So often a delivery that nobody claims is published again every GRACE; after that less and less often."""
REPEAT_MAX = 6
"""Times GRACE between two publications of a delivery that nobody claims, at the most."""
PROBE = 4
"""Times GRACE until a probe that nobody has claimed is published again."""
RECEIVERS_AT_ONCE = 100
"""SQLite puts at most 500 queries into one, and here each receiver has three."""
OPEN = (State.WAITING, State.QUEUED, State.RUNNING)


class Due(NamedTuple):
    """A delivery that had come due, as it was."""

    id: int
    receiver: str
    state: str
    attempt: int
    lost_leases: int
    repeats: int

    @property
    def is_dead(self) -> bool:
        """It has lost its last lease, and was not queued again."""
        return self.state == State.RUNNING and self.lost_leases + 1 >= MAX_LOST_LEASES

    def interval(self) -> float:
        """Seconds until the relay looks again: by how often it was published in vain, not by its age.

        What has waited for long was held back, or the broker was away: its next message may be lost like any other.
        """
        doublings = max(self.repeats - REPEATS_EVENLY, 0) if self.state == State.QUEUED else 0
        return conf.current().GRACE * min(1 << min(doublings, 8), REPEAT_MAX)


class DueQuerySet(models.QuerySet[M]):
    """The relay's queries of the outbox of one alias."""

    def lanes_due(self, receivers: Sequence[str]) -> list[tuple[str, State]]:
        """The (receiver, state) of which something is due now, the longest due first."""
        lanes = [(receiver, state) for receiver in receivers for state in OPEN]
        size = RECEIVERS_AT_ONCE * len(OPEN)
        found: list[tuple[Any, int]] = []
        for start in range(0, len(lanes), size):
            found += self._lanes_due(lanes, range(start, min(start + size, len(lanes))))
        return [lanes[number] for _, number in sorted(found)]

    def _lanes_due(self, lanes: Sequence[tuple[str, State]], numbers: range) -> list[tuple[Any, int]]:
        # Each is one look at the end of an index, whatever the statistics say. One LIMIT 1 for all of them would be a
        # scan of the table where there seems to be a lot to be found, and MIN one of all that is queued where it seems
        # little.
        connection = connections[self.db]
        table = connection.ops.quote_name(self.model._meta.db_table)
        earliest = f"SELECT due_at FROM {table} WHERE receiver = %s AND state = %s ORDER BY due_at LIMIT 1"  # noqa: S608
        arms = [f"SELECT ({earliest}) AS at, {number} AS lane" for number in numbers]
        now, _ = self.query.get_compiler(self.db).compile(Now())
        parameters = [part for number in numbers for part in (lanes[number][0], lanes[number][1].value)]
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT at, lane FROM ({' UNION ALL '.join(arms)}) lanes WHERE at <= {now}", parameters)  # noqa: S608
            return list(cursor.fetchall())

    def due(self, receiver: str, state: State) -> Self:
        """What is due now of one receiver in one state, the longest due first."""
        return self.filter(receiver=receiver, state=state, due_at__lte=Now()).order_by("due_at")

    def is_probed(self, receiver: str) -> bool:
        """Whether a probe is out: it is due later than anything that was recorded now would be."""
        grace = conf.current().GRACE
        out = self.filter(
            receiver=receiver, state=State.QUEUED, due_at__gt=after(grace), due_at__lte=after(PROBE * grace)
        )
        return bool(out.order_by("due_at").values_list("pk", flat=True)[:1])

    def take_probe(self, receiver: str) -> tuple[Due, datetime] | None:
        """Move on the delivery that came due last of what is queued; as it was, and when it had come due."""
        with transaction.atomic(using=self.db):
            wanted = self._unlocked(self.due(receiver, State.QUEUED).order_by("-due_at"))
            for row in wanted.values_list(*Due._fields, "due_at")[:1]:
                self.move_probe(row[0])
                return Due(*row[:-1]), row[-1]
        return None

    def move_probe(self, pk: int) -> bool:
        """Move on a probe that is due; whether it was."""
        probe = self.filter(in_state(State.QUEUED), pk=pk, due_at__lte=Now())
        return bool(probe.update(due_at=after(PROBE * conf.current().GRACE), repeats=F("repeats") + 1))

    def take_due(self, receiver: str, state: State, limit: int, until: datetime | None = None) -> list[Due]:
        """Move on up to ``limit`` deliveries that have come due (by ``until``), as their state asks; as they were.

        waiting: queued. queued: the next look, later and later. running: the lease is lost; queued, or dead after too
        many. In one short transaction without any other I/O; any number of relays may do it at once.
        """
        with transaction.atomic(using=self.db):
            wanted = self._unlocked(self.due(receiver, state))
            if until is not None:
                wanted = wanted.filter(due_at__lte=until)
            due = [Due(*row) for row in wanted.values_list(*Due._fields)[:limit]]
            for (lost, seconds), ids in _grouped(due).items():
                rows = self.filter(in_state(state), pk__in=ids)
                if state == State.QUEUED:
                    rows.update(due_at=after(seconds), repeats=F("repeats") + 1)
                elif state == State.WAITING:
                    rows.update(state=State.QUEUED, due_at=after(seconds), repeats=0)
                elif lost + 1 < MAX_LOST_LEASES:
                    rows.update(state=State.QUEUED, due_at=after(seconds), repeats=0, lost_leases=lost + 1)
                else:
                    rows.update(state=State.DEAD, due_at=None, finished_at=Now(), lost_leases=lost + 1)
                    self._explain_lost(ids)
        return due

    def _unlocked(self, wanted: Self) -> Self:
        """Those of ``wanted`` that no other relay is taking, locked for this transaction."""
        if connections[self.db].features.has_select_for_update_skip_locked:
            return wanted.select_for_update(skip_locked=True)
        return wanted

    def _explain_lost(self, ids: Sequence[int]) -> None:
        deliveries: Iterable[Delivery] = self.filter(pk__in=ids).only("attempt", "errors")  # type: ignore[assignment]
        for delivery in deliveries:
            delivery.errors = delivery.with_error(
                "LeaseLost",
                f"The worker that ran it died, or froze beyond its lease, {MAX_LOST_LEASES} times: "
                "does the handler kill its process (memory, a hard time limit)?",
            )
            delivery.save(using=self.db, update_fields=["errors"])

    def prune(self, older_than: float, limit: int) -> int:
        """Delete up to ``limit`` done or discarded deliveries that finished ``older_than`` seconds ago; how many."""
        pruned = 0
        for state in (State.DONE, State.DISCARDED):
            finished = self.filter(state=state, finished_at__lt=after(-older_than)).order_by("finished_at")
            with transaction.atomic(using=self.db):
                self._use_indexes()
                ids = list(finished.values_list("pk", flat=True)[: limit - pruned])
                # _raw_delete: no signals, no collector; the rows have no relations.
                pruned += self.filter(pk__in=ids)._raw_delete(self.db) if ids else 0
        return pruned

    def _use_indexes(self) -> None:
        """For this transaction: with statistics from before the rows came, PostgreSQL sorts or scans all for a few."""
        connection = connections[self.db]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true)"
                )


def _grouped(due: Iterable[Due]) -> dict[tuple[int, float], list[int]]:
    groups: dict[tuple[int, float], list[int]] = {}
    for row in due:
        groups.setdefault((row.lost_leases, row.interval()), []).append(row.id)
    return groups

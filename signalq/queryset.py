"""The outbox's queries, and the transitions of many deliveries at once, by name.

Times are the database's (``Now()``: the statement's time), never a client's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import NotSupportedError, connections, models, transaction
from django.db.models import Count, Exists, F, Min, OuterRef, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from . import conf

if TYPE_CHECKING:
    from .models import Delivery
    from .outbox import Item

INSERT_ROWS = 1_000
"""Rows in one INSERT, at the most: beyond it nothing is gained, and SQLite takes 32,766 parameters."""
MAX_LOST_LEASES = 3
"""A delivery whose worker died this often is dead: its handler may be what kills them."""
REPEAT_EVENLY = 60.0
"""Seconds of age up to which the relay looks at a queued delivery every GRACE; later it looks less and less often."""
REPEAT_MAX = 600.0
"""Seconds between two publications of a delivery that nobody claims, at the most."""


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


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    """The outbox of one alias: always say which, with ``using()``."""

    # record

    def record(self, items: Sequence[Item]) -> list[tuple[str, int]]:
        """INSERT ``items``; (receiver, id) of those that are queued at once, in the order of their ids."""
        queued: list[tuple[str, int]] = []
        for start in range(0, len(items), INSERT_ROWS):
            queued.extend(self._insert_rows(items[start : start + INSERT_ROWS]))
        return queued

    def _insert_rows(self, items: Sequence[Item]) -> list[tuple[str, int]]:
        connection = connections[self.db]
        if not connection.features.can_return_rows_from_bulk_insert:
            raise NotSupportedError(
                f"Database {self.db!r} ({connection.display_name}) has no INSERT ... RETURNING: "
                "signalq needs PostgreSQL, MariaDB 10.6 or SQLite 3.35, or later."
            )
        uuid_value = self.model._meta.get_field("event_id").get_db_prep_value
        rows: list[str] = []
        parameters: list[Any] = []
        moments = {}
        for item in items:
            if item.countdown not in moments:
                moments[item.countdown] = self._due(item.countdown)
            state, due_sql, due_parameters = moments[item.countdown]
            rows.append(f"(%s,%s,%s,%s,%s,%s,%s,0,0,0,{due_sql},%s,'[]',{self._sql(Now())[0]},NULL)")
            event_id = uuid_value(item.event_id, connection)
            parameters += [event_id, item.receiver, item.signal, item.sender, item.object_pk, item.key, state]
            parameters += [*due_parameters, item.payload]
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {self._table} ({','.join(map(self._quote, _INSERTED))})"
                f" VALUES {','.join(rows)} RETURNING receiver, id, state",
                parameters,
            )
            returned = cursor.fetchall()
        return sorted(((row[0], row[1]) for row in returned if row[2] == State.QUEUED), key=lambda row: row[1])

    def _due(self, countdown: float) -> tuple[str, str, tuple[Any, ...]]:
        state = State.WAITING if countdown > 0 else State.QUEUED
        sql, parameters = self._sql(after(countdown if countdown > 0 else conf.current().GRACE))
        return state.value, sql, parameters

    # claim

    def claim(
        self, receivers: Sequence[str], ids: Sequence[int], lease: float, *, in_order: bool = False
    ) -> list[Delivery]:
        """Take those of ``ids`` that are queued for ``receivers``, for ``lease`` seconds.

        ``in_order``: of each key only the first that is open. The attempt is counted before any handler runs, so that
        one that kills its worker is counted too.
        """
        if in_order:
            ids = self._heads(receivers, ids)
        if not ids:
            return []
        connection = connections[self.db]
        if connection.vendor == "mysql":
            return self._claim_in_two(receivers, ids, lease)
        due_sql, due_parameters = self._sql(after(lease))
        lock = " FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
        claimed = self.raw(
            # The names are Django's own, the values are parameters.
            f"UPDATE {self._table} SET state = %s, attempt = attempt + 1, due_at = {due_sql} WHERE id IN ("
            f"SELECT id FROM {self._table} WHERE id IN ({_marks(ids)}) AND receiver IN ({_marks(receivers)})"
            f" AND state = %s ORDER BY id{lock}) RETURNING *",
            [State.RUNNING.value, *due_parameters, *ids, *receivers, State.QUEUED.value],
        )
        return sorted(claimed, key=lambda delivery: delivery.pk)

    def _claim_in_two(self, receivers: Sequence[str], ids: Sequence[int], lease: float) -> list[Delivery]:
        """MariaDB has no UPDATE ... RETURNING: lock, then update, in one transaction."""
        with transaction.atomic(using=self.db):
            wanted = self.filter(pk__in=ids, receiver__in=receivers, state=State.QUEUED).order_by("pk")
            claimed = list(wanted.select_for_update(skip_locked=True))
            self.filter(pk__in=[delivery.pk for delivery in claimed]).update(
                state=State.RUNNING, attempt=F("attempt") + 1, due_at=after(lease)
            )
        for delivery in claimed:
            delivery.state, delivery.attempt = State.RUNNING, delivery.attempt + 1
        return claimed

    def _heads(self, receivers: Sequence[str], ids: Sequence[int]) -> list[int]:
        """Those of ``ids`` with nothing open before them under their key.

        Asked before the claim: what is a head stays one, as long as ids grow in the order of the commits.
        """
        before = self.filter(receiver__in=receivers, key=OuterRef("key"), pk__lt=OuterRef("pk"), due_at__isnull=False)
        before = before.exclude(state=State.WAITING, created_at__lt=after(-conf.current().ORDERED_HOLD))
        heads = self.filter(Q(key="") | ~Exists(before), pk__in=ids, receiver__in=receivers, state=State.QUEUED)
        return list(heads.values_list("pk", flat=True))

    def next_in_order(self, receivers: Sequence[str], key: str) -> int | None:
        """The delivery of ``key`` whose turn it is, if it is queued."""
        rows = self.filter(receiver__in=receivers, key=key, due_at__isnull=False).order_by("pk")
        row = rows.values_list("pk", "state").first()
        return row[0] if row and row[1] == State.QUEUED else None

    def others_of(self, receivers: Sequence[str], claimed: Sequence[Delivery]) -> list[Delivery]:
        """What else is waiting or queued under the keys of ``claimed``, locked for this transaction."""
        keys = {delivery.key for delivery in claimed if delivery.key}
        if not keys:
            return []
        wanted = self.filter(
            receiver__in=receivers, key__in=keys, due_at__isnull=False, state__in=(State.WAITING, State.QUEUED)
        ).order_by("pk")
        if connections[self.db].features.has_select_for_update_skip_locked:
            wanted = wanted.select_for_update(skip_locked=True)
        return list(wanted)

    def supersede(self, ids: Sequence[int], error: list[dict[str, Any]]) -> int:
        """Discard ``ids``, whose work another delivery of their object does."""
        rows = self.filter(pk__in=ids, state__in=(State.WAITING, State.QUEUED, State.RUNNING))
        return rows.update(state=State.DISCARDED, due_at=None, finished_at=Now(), errors=error)

    def expire(self, receivers: Sequence[str], ids: Sequence[int], seconds: float) -> int:
        """Discard those of ``ids`` that were recorded more than ``seconds`` ago and are still queued."""
        rows = self.filter(pk__in=ids, receiver__in=receivers, state=State.QUEUED, created_at__lt=after(-seconds))
        error = {"type": "Expired", "message": f"It was not run within {seconds:g} s.", "traceback": ""}
        return rows.update(state=State.DISCARDED, due_at=None, finished_at=Now(), errors=[error])

    def held(self, deliveries: Iterable[Delivery]) -> DeliveryQuerySet:
        """Those of ``deliveries`` that are still their worker's: the fence is the number of the attempt."""
        conditions = Q(pk__in=[])
        by_attempt: dict[int, list[int]] = {}
        for delivery in deliveries:
            by_attempt.setdefault(delivery.attempt, []).append(delivery.pk)
        for attempt, ids in by_attempt.items():
            conditions |= Q(pk__in=ids, attempt=attempt)
        return self.filter(conditions, state=State.RUNNING)

    def set_done(self) -> int:
        """The work of all of them is done; how many that were."""
        return self.update(state=State.DONE, due_at=None, finished_at=Now())

    def renew(self, deliveries: Iterable[Delivery], lease: float) -> int:
        """Keep the lease of running deliveries for another ``lease`` seconds; how many still had it."""
        return self.held(deliveries).update(due_at=after(lease))

    def hand_back(self, deliveries: Iterable[Delivery]) -> int:
        """Queue again what was claimed and not begun: that was no attempt."""
        return self.held(deliveries).update(
            state=State.QUEUED, attempt=F("attempt") - 1, due_at=after(conf.current().GRACE)
        )

    # the relay

    def due(self, receivers: Sequence[str]) -> DeliveryQuerySet:
        """What the relay has to look at now, the longest due first."""
        return self.filter(due_at__lte=Now(), receiver__in=receivers).order_by("due_at")

    def take_due(self, receivers: Sequence[str], limit: int) -> list[Due]:
        """Move on up to ``limit`` deliveries that have come due for ``receivers``, each as its state asks.

        waiting: queued. queued: the next look, later and later. running: the lease is lost; queued, or dead after
        too many. In one short transaction without any other I/O; any number of relays may do it at once.
        """
        with transaction.atomic(using=self.db):
            wanted = self.due(receivers).annotate(now=Now())
            if connections[self.db].features.has_select_for_update_skip_locked:
                wanted = wanted.select_for_update(skip_locked=True)
            columns = ("pk", "receiver", "state", "attempt", "lost_leases", "created_at", "now")
            due = [Due(*row) for row in wanted.values_list(*columns)[:limit]]
            for (state, lost, interval), ids in _grouped(due).items():
                rows = self.filter(pk__in=ids, state=state)
                if state != State.RUNNING:
                    rows.update(state=State.QUEUED, due_at=after(interval))
                elif lost + 1 < MAX_LOST_LEASES:
                    rows.update(state=State.QUEUED, due_at=after(interval), lost_leases=lost + 1)
                else:
                    rows.update(state=State.DEAD, due_at=None, finished_at=Now(), lost_leases=lost + 1)
                    self._explain_lost(ids)
        return due

    def _explain_lost(self, ids: Sequence[int]) -> None:
        for delivery in self.filter(pk__in=ids).only("attempt", "errors"):
            delivery.errors = delivery.with_error(
                "LeaseLost",
                f"The worker that ran it died, or froze beyond its lease, {MAX_LOST_LEASES} times: "
                "does the handler kill its process (memory, a hard time limit)?",
            )
            delivery.save(using=self.db, update_fields=["errors"])

    def prune(self, older_than: float, limit: int) -> int:
        """Delete up to ``limit`` done or discarded deliveries that finished ``older_than`` seconds ago; how many."""
        finished = self.filter(finished_at__lt=after(-older_than), state__in=(State.DONE, State.DISCARDED))
        ids = list(finished.order_by("finished_at").values_list("pk", flat=True)[:limit])
        # _raw_delete: no signals, no collector; the rows have no relations.
        return self.filter(pk__in=ids)._raw_delete(self.db) if ids else 0

    # people

    def summary(self) -> list[tuple[Any, ...]]:
        """For each receiver: its name, how many deliveries are in each State, and since when the oldest is overdue."""
        columns: dict[str, Any] = {f"number_{state}": Count("pk", filter=Q(state=state)) for state in State}
        columns["overdue"] = Min("due_at", filter=Q(due_at__lt=Now()))
        return list(self.order_by("receiver").values("receiver").annotate(**columns).values_list("receiver", *columns))

    def replay(self) -> list[tuple[str, int]]:
        """Queue the dead and discarded ones of this query set again, as new; (receiver, id) of each.

        Their errors stay on record. Doing it twice at once replays each of them once.
        """
        with transaction.atomic(using=self.db):
            wanted = self.filter(state__in=(State.DEAD, State.DISCARDED))
            if connections[self.db].features.has_select_for_update:
                wanted = wanted.select_for_update()
            rows = list(wanted.order_by("pk").values_list("receiver", "pk"))
            replayed = self.model.objects.using(self.db).filter(
                pk__in=[pk for _, pk in rows], state__in=(State.DEAD, State.DISCARDED)
            )
            replayed.update(
                state=State.QUEUED,
                # The attempt itself only ever grows: it is the fence against a worker that was thought dead.
                attempts_before=F("attempt"),
                lost_leases=0,
                due_at=after(conf.current().GRACE),
                finished_at=None,
            )
        return rows

    # SQL

    @property
    def _table(self) -> str:
        return self._quote(self.model._meta.db_table)

    def _quote(self, name: str) -> str:
        return connections[self.db].ops.quote_name(name)

    def _sql(self, expression: Any) -> tuple[str, tuple[Any, ...]]:
        compiler = self.query.get_compiler(self.db)
        sql, parameters = compiler.compile(expression.resolve_expression(self.query))
        return sql, tuple(parameters)


_INSERTED = (
    *("event_id", "receiver", "signal", "sender", "object_pk", "key", "state", "attempt", "attempts_before"),
    *("lost_leases", "due_at", "payload", "errors", "created_at", "finished_at"),
)


def _marks(values: Sequence[object]) -> str:
    return ",".join(["%s"] * len(values))


class Due(NamedTuple):
    """A delivery that had come due, as it was."""

    id: int
    receiver: str
    state: str
    attempt: int
    lost_leases: int
    created_at: datetime
    now: datetime

    @property
    def age(self) -> float:
        """Seconds since its event was recorded, by the database's clock."""
        return (self.now - self.created_at).total_seconds()

    @property
    def is_dead(self) -> bool:
        """It has lost its last lease, and was not queued again."""
        return self.state == State.RUNNING and self.lost_leases + 1 >= MAX_LOST_LEASES

    def interval(self) -> float:
        """Seconds until the relay looks again: GRACE for the first minute, then twice as long each time."""
        grace = conf.current().GRACE
        if self.state != State.QUEUED or self.age < REPEAT_EVENLY or grace <= 0:
            return grace
        interval = grace
        while interval < min(self.age, REPEAT_MAX):
            interval *= 2
        return min(interval, REPEAT_MAX)


def _grouped(due: Iterable[Due]) -> dict[tuple[str, int, float], list[int]]:
    groups: dict[tuple[str, int, float], list[int]] = {}
    for row in due:
        groups.setdefault((row.state, row.lost_leases, row.interval()), []).append(row.id)
    return groups

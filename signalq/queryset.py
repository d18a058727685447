"""The outbox's queries, and the transitions of many deliveries at once, by name. The relay's are in due.py.

Times are the database's (``Now()``: the statement's time), never a client's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.models import Count, F, Min, OuterRef, Q, Subquery
from django.db.models.functions import Now

from . import conf
from .due import OPEN, DueQuerySet
from .insert import insert
from .outcomes import again_on_conflict
from .state import KEY_ORDER, State, after, for_receivers, in_state, moment

if TYPE_CHECKING:
    from .models import Delivery
    from .outbox import Item

__all__ = ("DeliveryQuerySet", "State", "after")

DISCARDED_AT_ONCE = 1_000
"""Deliveries that one transaction discards: its locks stay short."""


class DeliveryQuerySet(DueQuerySet["Delivery"]):
    """The outbox of one alias: always say which, with ``using()``."""

    # record

    def record(self, items: Sequence[Item]) -> list[tuple[str, int]]:
        """INSERT ``items``; (receiver, id) of those that are queued at once, in the order of their ids."""
        return list(insert(self.db, items))

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
        due_sql, due_parameters = moment(self.db, lease)
        lock = " FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
        among, id_parameters = self._among(ids)
        claimed = self.raw(
            # The names are Django's own, the values are parameters. || '': see Unindexed.
            f"UPDATE {self._table} SET state = %s, attempt = attempt + 1, due_at = {due_sql} WHERE id IN ("
            f"SELECT id FROM {self._table} WHERE {among} AND (receiver || '') IN ({_marks(receivers)})"
            f" AND (state || '') = %s ORDER BY id{lock}) RETURNING *",
            [State.RUNNING.value, *due_parameters, *id_parameters, *receivers, State.QUEUED.value],
        )
        return sorted(claimed, key=lambda delivery: delivery.pk)

    def _claim_in_two(self, receivers: Sequence[str], ids: Sequence[int], lease: float) -> list[Delivery]:
        """MariaDB has no UPDATE ... RETURNING: lock, then update, in one transaction."""
        with transaction.atomic(using=self.db):
            wanted = self.filter(for_receivers(receivers), in_state(State.QUEUED), pk__in=ids).order_by("pk")
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
        given_up = Q(in_state(State.WAITING), created_at__lt=after(-conf.current().ORDERED_HOLD))
        first = self._open(receivers).filter(~given_up, key=OuterRef("key")).order_by(*KEY_ORDER).values("pk")[:1]
        heads = self.filter(
            Q(key="") | Q(pk=Subquery(first)), for_receivers(receivers), in_state(State.QUEUED), pk__in=ids
        )
        return list(heads.values_list("pk", flat=True))

    def next_in_order(self, receivers: Sequence[str], key: str) -> int | None:
        """The delivery of ``key`` whose turn it is, if it is queued."""
        rows = self._open(receivers).filter(key=key).order_by(*KEY_ORDER)
        row = rows.values_list("pk", "state").first()
        return row[0] if row and row[1] == State.QUEUED else None

    def others_of(self, receivers: Sequence[str], claimed: Sequence[Delivery]) -> list[Delivery]:
        """What else is waiting or queued under the keys of ``claimed``, locked for this transaction."""
        keys = {delivery.key for delivery in claimed if delivery.key}
        if not keys:
            return []
        wanted = self._open(receivers).filter(in_state(State.WAITING, State.QUEUED), key__in=keys).order_by("pk")
        if connections[self.db].features.has_select_for_update_skip_locked:
            wanted = wanted.select_for_update(skip_locked=True)
        return list(wanted)

    def _open(self, receivers: Sequence[str]) -> DeliveryQuerySet:
        """What is not finished, to be looked up by its key. Twice the same, as the index has finished_at."""
        return self.filter(for_receivers(receivers), finished_at__isnull=True, due_at__isnull=False)

    def give_up(self, deliveries: Sequence[Delivery], kind: str, reason: str) -> None:
        """Discard ``deliveries``, which this transaction has locked."""
        errors = [{"type": kind, "message": reason, "traceback": ""}]
        for delivery in deliveries:
            delivery.state, delivery.errors = State.DISCARDED, errors
        rows = self.filter(in_state(*OPEN), pk__in=[delivery.pk for delivery in deliveries])
        rows.update(state=State.DISCARDED, due_at=None, finished_at=Now(), errors=errors)

    def expire(self, receivers: Sequence[str], ids: Sequence[int], seconds: float) -> list[Delivery]:
        """Discard those of ``ids`` that were recorded more than ``seconds`` ago and are still queued; which."""
        rows = self.filter(for_receivers(receivers), in_state(State.QUEUED), pk__in=ids, created_at__lt=after(-seconds))
        if not rows.exists():
            return []
        with transaction.atomic(using=self.db):
            expired = list(self._unlocked(rows.order_by("pk")))
            self.give_up(expired, "Expired", f"It was not run within {seconds:g} s.")
        return expired

    def held(self, deliveries: Iterable[Delivery]) -> DeliveryQuerySet:
        """Those of ``deliveries`` that are still their worker's: the fence is the number of the attempt."""
        conditions = Q(pk__in=[])
        for attempt, ids in _by_attempt(deliveries).items():
            conditions |= Q(pk__in=ids, attempt=attempt)
        return self.filter(conditions, in_state(State.RUNNING))

    def set_done(self, deliveries: Sequence[Delivery]) -> int:
        """The work of all of them is done; how many were still their worker's, as in ``held``.

        Django builds it for longer than the database takes for it.
        """
        connection, (now, _) = connections[self.db], moment(self.db)
        state = "state" if connection.vendor == "mysql" else "(state || '')"  # see Unindexed; MariaDB takes || for OR
        done = 0
        with connection.cursor() as cursor:
            for attempt, ids in _by_attempt(deliveries).items():
                among, id_parameters = self._among(ids)
                cursor.execute(
                    f"UPDATE {self._table} SET state = %s, due_at = NULL, finished_at = {now}"
                    f" WHERE {among} AND attempt = %s AND {state} = %s",
                    [State.DONE.value, *id_parameters, attempt, State.RUNNING.value],
                )
                done += cursor.rowcount
        return done

    def renew(self, deliveries: Iterable[Delivery], lease: float) -> int:
        """Keep the lease of running deliveries for another ``lease`` seconds; how many still had it."""
        return self.held(deliveries).update(due_at=after(lease))

    def hand_back(self, deliveries: Iterable[Delivery]) -> int:
        """Queue again what was claimed and not begun: that was no attempt."""
        return self.held(deliveries).update(
            state=State.QUEUED, attempt=F("attempt") - 1, repeats=0, due_at=after(conf.current().GRACE)
        )

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
        return again_on_conflict(self._replay)

    def _replay(self) -> list[tuple[str, int]]:
        with transaction.atomic(using=self.db):
            wanted = self.filter(state__in=(State.DEAD, State.DISCARDED))
            if connections[self.db].features.has_select_for_update:
                wanted = wanted.select_for_update()
            rows = list(wanted.order_by("pk").values_list("receiver", "pk"))
            replayed = self.model.objects.using(self.db).filter(
                in_state(State.DEAD, State.DISCARDED), pk__in=[pk for _, pk in rows]
            )
            replayed.update(
                state=State.QUEUED,
                # The attempt itself only ever grows: it is the fence against a worker that was thought dead.
                attempts_before=F("attempt"),
                lost_leases=0,
                repeats=0,
                due_at=after(conf.current().GRACE),
                finished_at=None,
            )
        return rows

    def discardable(self) -> DeliveryQuerySet:
        """What is not finished or dead, and no worker holds."""
        lost = Q(state=State.RUNNING, due_at__lt=Now())
        return self.filter(Q(state__in=(State.WAITING, State.QUEUED, State.DEAD)) | lost)

    def discard(self, reason: str, limit: int = DISCARDED_AT_ONCE) -> int:
        """Discard up to ``limit`` of what is discardable here, in a transaction of its own; how many.

        Their errors stay on record, ``reason`` is the last of them. A replay brings them back.
        """
        with transaction.atomic(using=self.db):
            wanted = self.discardable().only("attempt", "errors").order_by("pk")
            if connections[self.db].features.has_select_for_update:
                wanted = wanted.select_for_update()
            deliveries = list(wanted[:limit])
            outbox = self.model.objects.using(self.db)
            for delivery in deliveries:
                delivery.errors = delivery.with_error("Discarded", reason)
            outbox.bulk_update(deliveries, ["errors"], batch_size=100)
            rows = outbox.filter(pk__in=[delivery.pk for delivery in deliveries])
            return rows.update(state=State.DISCARDED, due_at=None, finished_at=Now())

    @property
    def _table(self) -> str:
        return connections[self.db].ops.quote_name(self.model._meta.db_table)

    def _among(self, ids: Sequence[int]) -> tuple[str, list[Any]]:
        """The condition that the id is one of ``ids``, and its parameters: in PostgreSQL one, soon read."""
        if len(ids) > 1 and connections[self.db].vendor == "postgresql":
            return "id = ANY(%s::bigint[])", [list(ids)]
        return f"id IN ({_marks(ids)})", list(ids)


def _by_attempt(deliveries: Iterable[Delivery]) -> dict[int, list[int]]:
    ids: dict[int, list[int]] = {}
    for delivery in deliveries:
        ids.setdefault(delivery.attempt, []).append(delivery.pk)
    return ids


def _marks(values: Sequence[object]) -> str:
    return ",".join(["%s"] * len(values))

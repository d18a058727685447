"""Where in an outbox something is, without an index for it and without reading all of it.

Ids grow with the time of recording, and an event's id holds the time of its capture. So a search in the primary key,
a few looks at one row each, finds the neighbourhood, and a neighbourhood is all that is read.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone as dt_timezone
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from ..event import Event
from ..flow import looks
from ..models import Delivery
from ..queryset import DeliveryQuerySet, State

NEIGHBOURHOOD = 100_000
"""Rows that one look reads, at the most: some 100 ms."""
CHILDREN = 50
FIRST_DUE = 10_000
"""Of a receiver's deliveries in one state, so many are looked at where no index tells which are wanted."""
FOUND = 1_000
"""Deliveries that are looked for one by one, at the most."""
EXACT = 1_000
"""A search in the primary key ends when so many ids are left: the time itself is compared then."""
SKEW = timedelta(minutes=1)
"""How far the clocks of web servers and database may be apart."""
LOOK_AGAIN = 60.0

_outboxes: tuple[float, list[str]] = (float("-inf"), [])


def outboxes() -> list[str]:
    """The aliases that have an outbox; looked up once a minute. One that does not answer is left as it was."""
    global _outboxes
    looked, found = _outboxes
    if not found or time.monotonic() - looked > LOOK_AGAIN:
        found = [using for using in connections if _has_outbox(using, using in found)]
        _outboxes = (time.monotonic(), found)
    return found


def _has_outbox(using: str, had: bool) -> bool:
    try:
        return looks.has_outbox(using)
    except (DatabaseError, InterfaceError):
        return had


def around(outbox: DeliveryQuerySet, moment: datetime) -> tuple[int, int]:
    """Two ids: what is below the first was recorded before ``moment``, what is from the second on was not."""
    rows = outbox.order_by("pk").values_list("pk", "created_at")
    first, last = rows.first(), rows.last()
    if first is None or last is None:
        return 0, 0
    low, high = first[0], last[0] + 1
    while high - low > EXACT:
        middle = (low + high) // 2
        row = rows.filter(pk__gte=middle)[0]  # there is one: the last id is never below the middle
        if row[1] < moment:
            low = row[0] + 1
        else:
            high = middle
    return low, high


def recorded(outbox: DeliveryQuerySet, *, since: datetime | None = None, before: datetime | None = None) -> Q:
    """The condition for what was recorded then, which a million older or newer rows do not slow down."""
    condition = Q()
    if since is not None:
        condition &= Q(pk__gte=around(outbox, since)[0], created_at__gte=since)
    if before is not None:
        condition &= Q(pk__lt=around(outbox, before)[1], created_at__lt=before)
    return condition


def newest(outbox: DeliveryQuerySet) -> int | None:
    """The id before which a search does not look; None if there are no more rows than it reads."""
    ids = outbox.order_by("-pk").values_list("pk", flat=True)
    return next(iter(ids[NEIGHBOURHOOD : NEIGHBOURHOOD + 1]), None)


def retrying(outbox: DeliveryQuerySet, receivers: Sequence[str] = ()) -> list[int]:
    """The ids of up to FOUND deliveries (of ``receivers``) that failed and are to be tried again, the newest first.

    No index knows them: what is looked at is the first FIRST_DUE of each receiver, or a part of all that waits.
    """
    connection = connections[outbox.db]
    table = connection.ops.quote_name(Delivery._meta.db_table)
    # In the order of an index, which has them together: finished_at for what is not finished, or due_at.
    part = (
        f"receiver = %s ORDER BY due_at LIMIT {FIRST_DUE}"
        if receivers
        else f"finished_at IS NULL LIMIT {FIRST_DUE * 5}"
    )
    arms: list[str] = []
    parameters: list[str] = []
    for receiver in receivers or (None,):
        for state in (State.WAITING, State.QUEUED):
            arms.append(
                f"SELECT id FROM (SELECT id, attempt, attempts_before FROM {table} WHERE state = %s AND {part})"  # noqa: S608
                f" ones_{len(arms)} WHERE attempt > attempts_before"
            )
            parameters += [state.value] if receiver is None else [state.value, receiver]
    with connection.cursor() as cursor:
        cursor.execute(f"{' UNION ALL '.join(arms)} ORDER BY id DESC LIMIT {FOUND}", parameters)
        return [pk for (pk,) in cursor.fetchall()]


def say_bounded(request: HttpRequest) -> None:
    """Have the page say that older deliveries were not looked at."""
    request.signalq_bounded = True  # type: ignore[attr-defined]


def of_event(outbox: DeliveryQuerySet, event_id: uuid.UUID) -> list[int]:
    """The ids of the event's deliveries: those of one event are recorded together, at the end of its transaction."""
    captured = _captured_at(event_id)
    low = around(outbox, captured - SKEW)[0] if captured else newest(outbox) or 0
    rows = _bounded(outbox.filter(pk__gte=low)).filter(event_id=event_id)
    return list(rows.order_by("pk").values_list("pk", flat=True)[:CHILDREN])


def caused_by(outbox: DeliveryQuerySet, delivery: Delivery, event: Event) -> list[Delivery]:
    """The deliveries of events that this one's handler sent, on its own database.

    They were recorded after it, and before it was settled or just then.
    """
    later = outbox.filter(pk__gt=delivery.pk)
    if delivery.finished_at is not None:
        later = later.filter(pk__lt=around(outbox, delivery.finished_at + SKEW)[1])
    # As the codec writes it: the payload is text, so that a look at a few rows needs no JSON of the database's.
    rows = _bounded(later).filter(payload__contains=f'"parent":"{event.id}"').defer("payload", "errors")
    mine = [*event.chain, delivery.receiver]
    found = rows.filter(payload__contains=f'"chain":{json.dumps(mine, separators=(",", ":"))}').order_by("pk")
    return list(found[:CHILDREN])


def _bounded(rows: DeliveryQuerySet) -> DeliveryQuerySet:
    """The first of ``rows`` by id, no more than a neighbourhood."""
    ids = rows.order_by("pk").values_list("pk", flat=True)
    end: Any = next(iter(ids[NEIGHBOURHOOD : NEIGHBOURHOOD + 1]), None)
    return rows if end is None else rows.filter(pk__lt=end)


def _captured_at(event_id: uuid.UUID) -> datetime | None:
    if event_id.version != 7:
        return None
    moment = datetime.fromtimestamp((event_id.int >> 80) / 1_000, dt_timezone.utc)
    return moment if settings.USE_TZ else timezone.make_naive(moment)

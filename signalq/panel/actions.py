"""Replay and discard, as a person asks for them: in chunks that are short transactions, each on record in LogEntry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from django.contrib.admin.models import CHANGE, LogEntry
from django.db import router, transaction
from django.http import HttpRequest

from .. import publish, wire
from ..models import Delivery
from ..outcomes import again_on_conflict
from ..queryset import DeliveryQuerySet, State
from ..receivers import registry

CHUNK = 1_000
"""Deliveries of one transaction."""
AT_ONCE = 10_000
"""Deliveries of one request, which has to end before a web server's patience does."""


class Acted(NamedTuple):
    """What became of a request."""

    number: int
    left: bool
    """There is more of it: ask again."""


def replay(request: HttpRequest, wanted: DeliveryQuerySet) -> Acted:
    """Queue the dead and discarded ones of ``wanted`` again."""
    return _in_chunks(wanted.filter(state__in=(State.DEAD, State.DISCARDED)), lambda rows: _replay(request, rows))


def discard(request: HttpRequest, wanted: DeliveryQuerySet) -> Acted:
    """Discard those of ``wanted`` that are not finished or dead, and that no worker holds."""
    return _in_chunks(wanted.discardable(), lambda rows: _discard(request, rows))


def _in_chunks(wanted: DeliveryQuerySet, act: Callable[[DeliveryQuerySet], int]) -> Acted:
    ids = list(wanted.order_by("pk").values_list("pk", flat=True)[: AT_ONCE + 1])
    outbox = Delivery.objects.using(wanted.db)
    count = 0
    rest = iter(ids[:AT_ONCE])
    while chunk := list(islice(rest, CHUNK)):
        rows = outbox.filter(pk__in=chunk)
        count += again_on_conflict(lambda rows=rows: _recorded(rows, act))  # type: ignore[misc]
    return Acted(count, len(ids) > AT_ONCE)


def _recorded(rows: DeliveryQuerySet, act: Callable[[DeliveryQuerySet], int]) -> int:
    """Do it in one transaction with its record, as far as they are in one database."""
    with transaction.atomic(using=router.db_for_write(LogEntry)), transaction.atomic(using=rows.db):
        return act(rows)


def _replay(request: HttpRequest, rows: DeliveryQuerySet) -> int:
    replayed = rows.replay()
    _log(request, rows.db, replayed, "Replayed", State.QUEUED)
    # Alone, since each of them has failed before. Of a receiver that is unknown here, its own workers' relay knows.
    wakes: list[wire.Item] = [wire.Wake(rows.db, name, pk, True) for name, pk in replayed if name in registry]
    transaction.on_commit(lambda: publish.send(wakes), using=rows.db)
    return len(replayed)


def _discard(request: HttpRequest, rows: DeliveryQuerySet) -> int:
    before = dict(rows.values_list("pk", "receiver"))
    count = rows.discard(f"In the admin, by {request.user.get_username()}", limit=CHUNK)
    discarded = rows.filter(state=State.DISCARDED).values_list("pk", flat=True)
    _log(request, rows.db, [(before[pk], pk) for pk in discarded], "Discarded", State.DISCARDED)
    return count


def _log(request: HttpRequest, using: str, done: Sequence[tuple[str, int]], what: str, state: State) -> None:
    deliveries: Iterable[Delivery] = [Delivery(pk=pk, receiver=name, state=state) for name, pk in done]
    if done and request.user.pk is not None:
        LogEntry.objects.log_actions(request.user.pk, deliveries, CHANGE, f"{what} (database {using})")

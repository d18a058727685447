"""signalq's outbox when it is large: what a claim, a relay's batch and an insert take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction
from django.db.models.functions import Now

from benchmarks.inside.saving import save_many

CLAIMED, SWEPT = 100, 1_000


def grow(rows: int) -> dict[str, Any]:
    """Bring the outbox to `rows`: half of them done today, half waiting for their time, under the same receiver.

    They are of the last eight hours.
    """
    from signalq.models import Delivery

    if not Delivery.objects.exists():
        save_many(1)
    missing = rows - Delivery.objects.count()
    special = {
        "state": "CASE WHEN n % 2 = 0 THEN 'done' ELSE 'waiting' END",
        "due_at": "CASE WHEN n % 2 = 0 THEN NULL ELSE now() + interval '1 hour' END",
        "created_at": "now() - n % 8 * interval '1 hour'",
        "finished_at": "CASE WHEN n % 2 = 0 THEN now() END",
    }
    columns = [field.column for field in Delivery._meta.fields if field.column != "id"]
    selected = ", ".join(special.get(column, column) for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO signalq_delivery ({', '.join(columns)}) SELECT {selected}"  # noqa: S608 - the model's own
            f" FROM (SELECT * FROM signalq_delivery LIMIT 1) one, generate_series(1, {missing}) n"
        )
        cursor.execute("VACUUM ANALYZE signalq_delivery")
    return {"rows": Delivery.objects.count()}


def outbox_times() -> dict[str, Any]:
    """Milliseconds of one insert of 1,000 events, one claim of 100 and one relay's batch of 1,000."""
    from signalq import wire
    from signalq.models import Delivery
    from signalq.relay import Relay

    outbox = Delivery.objects.using("default")
    last = outbox.order_by("-pk").values_list("pk", flat=True).first() or 0
    inserted = _insert_milliseconds()
    new = outbox.filter(pk__gt=last)
    ids = list(new.order_by("pk").values_list("pk", flat=True)[:CLAIMED])
    receiver = str(new.values_list("receiver", flat=True)[0])
    claimed = _milliseconds(lambda: outbox.claim([receiver], ids, 20.0))
    new.update(state="queued", due_at=Now())
    # The database's part alone: the broker does not know how many rows there are.
    send, depth = wire.Channel.send, wire.Channel.depth
    wire.Channel.send = lambda self, items: [None for _ in items]  # type: ignore[assignment,method-assign,return-value]
    wire.Channel.depth = lambda self, queue: 0  # type: ignore[method-assign]
    try:
        swept = _milliseconds(lambda: Relay(["default"]).sweep("default"))
    finally:
        wire.Channel.send, wire.Channel.depth = send, depth  # type: ignore[method-assign]
        new.delete()
    return {"insert": inserted, "claim": claimed, "relay": swept}


def _insert_milliseconds() -> float:
    """The commit of 1,000 captured events, with their INSERT, less nothing: the saves themselves are not in it."""
    from benchmarks.shop.models import Thing

    with transaction.atomic():
        for _ in range(SWEPT):
            Thing(name="Ada").save()
        started = time.perf_counter()
    return 1000 * (time.perf_counter() - started)


def _milliseconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)

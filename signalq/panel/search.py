"""Search by object, event id, number or error text, in a part of the outbox that is bounded and said."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import NamedTuple

from django.db import connections
from django.db.models import Q, TextField
from django.db.models.functions import Cast

from ..queryset import DeliveryQuerySet, State
from . import places
from .filters import RETRYING

MOST = 1_000
"""Deliveries that a search finds, at the most."""
LARGEST_ID = (1 << 63) - 1


class Found(NamedTuple):
    """What a search has found."""

    ids: list[int]
    everywhere: bool
    """False: there is more than it has looked at."""


def search(outbox: DeliveryQuerySet, text: str) -> Found:
    """The ids of deliveries that ``text`` means.

    An event's id; ``17``: a delivery's number or an object's primary key; ``shop.order:17``: that object; any other
    text is looked for among primary keys and, of dead and retrying deliveries, in their errors.
    """
    text = text.strip()
    with contextlib.suppress(ValueError):
        return Found(places.of_event(outbox, uuid.UUID(text)) or _object(outbox, text).ids, True)
    return _object(outbox, text)


def _object(outbox: DeliveryQuerySet, text: str) -> Found:
    model, _, pk = text.rpartition(":")
    wanted = Q(object_pk=text)
    if model:
        wanted |= Q(sender=model.lower(), object_pk=pk)
    failed = (Q(state=State.DEAD) | RETRYING) & Q(error_text__icontains=_as_stored(outbox, text))
    if text.isdecimal():
        failed = Q()  # too many tracebacks have that line
    rows = outbox.annotate(error_text=Cast("errors", TextField()))
    wanted = wanted | failed if failed else wanted

    oldest, oldest_dead = places.newest(outbox), _oldest_dead(outbox)
    recent = rows if oldest is None else rows.filter(pk__gt=oldest)
    ids = set(recent.filter(wanted).order_by("-pk").values_list("pk", flat=True)[:MOST])
    if oldest is not None:  # a dead letter may be older than all that is remembered of the rest
        dead = rows.filter(wanted, state=State.DEAD, pk__lte=oldest)
        if oldest_dead is not None:
            dead = dead.filter(finished_at__gt=oldest_dead)
        ids.update(dead.order_by("-finished_at").values_list("pk", flat=True)[:MOST])
    if text.isdecimal() and int(text) <= LARGEST_ID:
        ids.update(outbox.filter(pk=int(text)).values_list("pk", flat=True))
    return Found(sorted(ids), oldest is None)


def _oldest_dead(outbox: DeliveryQuerySet) -> object:
    dead = outbox.filter(state=State.DEAD).order_by("-finished_at").values_list("finished_at", flat=True)
    return next(iter(dead[places.NEIGHBOURHOOD : places.NEIGHBOURHOOD + 1]), None)


def _as_stored(outbox: DeliveryQuerySet, text: str) -> str:
    """``text`` as the errors' JSON has it: PostgreSQL's jsonb has letters where others have escapes."""
    plain = connections[outbox.db].vendor == "postgresql"
    return json.dumps(text, ensure_ascii=not plain)[1:-1]

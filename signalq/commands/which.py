"""Which deliveries are meant, for ``replay`` and ``discard``: by ids, receiver and age."""

from __future__ import annotations

import difflib
from typing import Any

from django.core.management.base import CommandError, CommandParser

from signalq.models import Delivery
from signalq.queryset import DeliveryQuerySet, after
from signalq.receivers import registry

from .common import age, alias


def add_arguments(parser: CommandParser) -> None:
    """Declare them."""
    parser.add_argument("ids", nargs="*", type=int, help="deliveries; without any: those of --receiver")
    parser.add_argument("--receiver", help="the name of a receiver, also of one that is gone")
    parser.add_argument("--older-than", type=age, help="recorded longer ago than this: 90s, 15m, 12h, 7d")
    parser.add_argument("--database", help="the alias of the outbox")


def wanted(options: dict[str, Any]) -> DeliveryQuerySet:
    """What the ids, --receiver and --older-than leave of an outbox. Raises CommandError for what cannot be meant."""
    if not options["ids"] and not options["receiver"]:
        raise CommandError("Say which: ids, or --receiver NAME for all of its deliveries.")
    rows = Delivery.objects.using(alias(options))
    if name := options["receiver"]:
        _check_name(rows, name)
        rows = rows.filter(receiver=name)
    if options["ids"]:
        rows = rows.filter(pk__in=options["ids"])
    if options["older_than"] is not None:
        rows = rows.filter(created_at__lt=after(-options["older_than"]))
    return rows


def _check_name(rows: DeliveryQuerySet, name: str) -> None:
    if rows.filter(receiver=name).exists():
        return
    recorded = rows.order_by("receiver").values_list("receiver", flat=True).distinct()
    near = difflib.get_close_matches(name, {*recorded, *registry}, n=1)
    hint = f" Did you mean {near[0]!r}?" if near and near[0] != name else ""
    raise CommandError(f"Nothing is recorded for {name!r} on {rows.db!r}.{hint}")

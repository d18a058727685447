from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models.signals import post_save, pre_delete

from project.audit.models import Entry
from signalq import async_receiver

if TYPE_CHECKING:
    from collections.abc import Collection

    from django.db.models import Model

WATCHED = [settings.AUTH_USER_MODEL, "shop.Order"]

# Nobody's business, or no news: Django notes each login in the user's row.
LEFT_OUT = {"password", "last_login"}


def is_news(update_fields: Collection[str] | None = None, **kwargs: Any) -> bool:
    return update_fields is None or not LEFT_OUT.issuperset(update_fields)


@async_receiver(pre_delete, sender=WATCHED)
def record_deletion(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    # The row is gone by now; the instance is as it was when the signal was sent.
    Entry.write(Entry.Action.DELETED, instance, values_of(instance), [])


@async_receiver(post_save, sender=WATCHED, when=is_news)
def record_change(
    sender: type[Model], instance: Model, created: bool, update_fields: Collection[str] | None = None, **kwargs: Any
) -> None:
    values = values_of(instance)
    before = Entry.objects.about(instance).order_by("pk").last()
    changes = [] if before is None else [name for name in values if values[name] != before.values.get(name)]
    # The instance is the row as it is now; what exactly was saved then is known where the sender said so.
    changes += sorted(set(update_fields or ()) - {*changes, *LEFT_OUT})
    Entry.write(Entry.Action.CREATED if created else Entry.Action.CHANGED, instance, values, changes)


def values_of(row: Model) -> dict[str, Any]:
    fields = [field.attname for field in row._meta.concrete_fields if field.attname not in LEFT_OUT]
    values: dict[str, Any] = json.loads(
        json.dumps({name: getattr(row, name) for name in fields}, cls=DjangoJSONEncoder)
    )
    return values

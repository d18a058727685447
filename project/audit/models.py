from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

if TYPE_CHECKING:
    from typing_extensions import Self


class EntryQuerySet(models.QuerySet["Entry"]):
    def about(self, row: models.Model) -> Self:
        return self.filter(model=row._meta.label, object_pk=str(row.pk))


class Entry(models.Model):
    class Action(models.TextChoices):
        CREATED = "created"
        CHANGED = "changed"
        DELETED = "deleted"

    action = models.CharField(max_length=10, choices=Action.choices)
    model = models.CharField(max_length=100)
    object_pk = models.CharField(max_length=50)
    text = models.CharField(max_length=200, help_text="the object in words, as it was then")
    values = models.JSONField(encoder=DjangoJSONEncoder, help_text="the row's fields")
    changes = models.JSONField(default=list, help_text="names of the fields that differ from the entry before")
    at = models.DateTimeField(auto_now_add=True)

    objects = EntryQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["model", "object_pk"])]

    def __str__(self) -> str:
        return f"{self.action} {self.text}"

    @classmethod
    def write(cls, action: Action, row: models.Model, values: dict[str, Any], changes: list[str]) -> Entry:
        return cls.objects.create(
            action=action,
            model=row._meta.label,
            object_pk=str(row.pk),
            text=f"{row._meta.verbose_name} {row.pk}: {row}"[:200],
            values=values,
            changes=changes,
        )

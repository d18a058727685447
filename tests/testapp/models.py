"""One model for each shape of sender that a signal can have, and two tables to keep score in."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=100)
    email = models.EmailField(blank=True)
    counter = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Book(models.Model):
    """A foreign key, a many-to-many field, and a state to change."""

    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books", null=True)
    tags = models.ManyToManyField(Tag, related_name="books")
    status = models.CharField(max_length=20, default="draft")
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    published_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.title


class Ebook(Book):
    """A child with a table of its own (multi-table inheritance)."""

    size = models.IntegerField(default=0)


class BookProxy(Book):
    """The same table under another class."""

    class Meta:
        proxy = True


class Stamped(models.Model):
    """An abstract base."""

    note = models.CharField(max_length=100, blank=True)

    class Meta:
        abstract = True


class Letter(Stamped):
    """A concrete child of an abstract base, with a UUID for a primary key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    def __str__(self) -> str:
        return str(self.id)


class Intent(models.Model):
    """Written by the code under test in its own transaction: this should be handled."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Effect(models.Model):
    """Written by handlers. It has no unique key on purpose, so that a double shows."""

    receiver = models.CharField(max_length=200)
    object_pk = models.CharField(max_length=100, blank=True)
    note = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.receiver} {self.object_pk}"


class Remark(models.Model):
    """About any row, with a file."""

    # No constraint: the tables of apps without migrations are made first.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.BigIntegerField()
    target = GenericForeignKey()
    file = models.FileField(blank=True)

    def __str__(self) -> str:
        return str(self.pk)


class Seat(models.Model):
    """A composite primary key."""

    pk = models.CompositePrimaryKey("row", "number")
    row = models.CharField(max_length=5)
    number = models.IntegerField()
    taken = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.row}{self.number}"


@dataclass(frozen=True)
class Code:
    """A type that signalq does not know."""

    text: str

    def __str__(self) -> str:
        return self.text


class CodeField(models.CharField):
    """A field that makes Codes, in the way that Django documents."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return self.to_python(value)

    def to_python(self, value: Any) -> Any:
        return value if value is None or isinstance(value, Code) else Code(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else str(value)

    def value_to_string(self, obj: Any) -> str:
        return str(self.value_from_object(obj))


class CodeAttribute:
    """Makes a Code when it is read, as geometries are made."""

    def __init__(self, field: Any) -> None:
        self.field = field

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__.get(self.field.attname)
        return Code(value) if isinstance(value, str) else value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.field.attname] = value


class LazyCodeField(models.CharField):
    """Leaves the making of Codes to its attribute."""

    descriptor_class = CodeAttribute

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else str(value)


class Ticket(models.Model):
    """Values that only their fields know, the key among them."""

    code = CodeField(max_length=20, primary_key=True)
    colour = CodeField(max_length=20, null=True)
    place = LazyCodeField(max_length=20, default="")
    others = models.ManyToManyField("self")

    def __str__(self) -> str:
        return str(self.code)

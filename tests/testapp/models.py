"""One model for each shape of sender that a signal can have, and two tables to keep score in."""

from __future__ import annotations

import uuid

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

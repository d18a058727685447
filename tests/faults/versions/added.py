"""A receiver more."""

from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.faults.versions.old import greet as greet
from tests.testapp.models import Author, Effect


@async_receiver(post_save, sender=Author, when=Created(), name="bill")
def bill(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    Effect.objects.create(receiver="bill", object_pk=str(instance.pk))

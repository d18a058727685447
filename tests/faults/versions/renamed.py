"""The receiver has another name, and keeps the old one served."""

from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.testapp.models import Author, Effect


@async_receiver(post_save, sender=Author, when=Created(), name="welcome", aliases=["greet"])
def welcome(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    Effect.objects.create(receiver="welcome", object_pk=str(instance.pk))

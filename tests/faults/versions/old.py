"""The version before the deploy: one receiver."""

from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.testapp.models import Author, Effect


@async_receiver(post_save, sender=Author, when=Created(), name="greet")
def greet(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    Effect.objects.create(receiver="greet", object_pk=str(instance.pk))

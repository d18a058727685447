"""The receiver is gone; another is there in its place, so that the worker has something to do."""

from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.testapp.models import Effect, Letter


@async_receiver(post_save, sender=Letter, when=Created(), name="file")
def file(sender: type[Letter], instance: Letter, **kwargs: Any) -> None:
    Effect.objects.create(receiver="file", object_pk=str(instance.pk))

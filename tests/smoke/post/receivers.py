from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.testapp.models import Effect, Tag


@async_receiver(post_save, sender=Tag, when=Created(), queue="mail", name="mailed")
def mailed(sender: type[Tag], instance: Tag, **kwargs: Any) -> None:
    Effect.objects.create(receiver="mailed", object_pk=str(instance.pk))

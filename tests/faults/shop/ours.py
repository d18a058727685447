"""Two receivers of signalq."""

from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.faults.shop.work import handle
from tests.testapp.models import Intent


@async_receiver(post_save, sender=Intent, when=Created())
def first(sender: type[Intent], instance: Intent, **kwargs: Any) -> None:
    handle("first", instance)


@async_receiver(post_save, sender=Intent, when=Created())
def second(sender: type[Intent], instance: Intent, **kwargs: Any) -> None:
    handle("second", instance)

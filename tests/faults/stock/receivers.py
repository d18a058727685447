"""The same handler twice: behind `async_receiver`, and as a task that `on_commit` and `delay` send."""

from functools import partial
from typing import Any

from celery import shared_task
from django.db import OperationalError, transaction
from django.db.models import F
from django.db.models.signals import post_save
from django.dispatch import receiver

from signalq import async_receiver
from tests.faults.stock.names import names
from tests.testapp.models import Author, Effect, Intent


def count(intent: Intent) -> None:
    for name in names(intent):
        Author.objects.filter(name=name).update(counter=F("counter") + 1)
    Effect.objects.create(receiver=intent.name, object_pk=str(intent.pk))


@async_receiver(post_save, sender=Intent, when=lambda instance, **kwargs: instance.name == "ours")
def ours(sender: type[Intent], instance: Intent, **kwargs: Any) -> None:
    count(instance)


@shared_task(autoretry_for=(OperationalError,), max_retries=None, default_retry_delay=0)
def by_hand(pk: int) -> None:
    with transaction.atomic():
        count(Intent.objects.get(pk=pk))


@receiver(post_save, sender=Intent)
def send_by_hand(sender: type[Intent], instance: Intent, **kwargs: Any) -> None:
    if instance.name == "control":
        transaction.on_commit(partial(by_hand.delay, instance.pk))

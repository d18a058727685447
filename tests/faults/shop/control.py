"""The same by hand, as Celery's documentation has it: on_commit, delay, and the row loaded by its key."""

from functools import partial
from typing import Any

from celery import shared_task
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from tests.faults.shop.work import handle
from tests.testapp.models import Intent


@shared_task
def by_hand(pk: int) -> None:
    handle("by hand", Intent.objects.get(pk=pk))


@receiver(post_save, sender=Intent)
def send_by_hand(sender: type[Intent], instance: Intent, created: bool, **kwargs: Any) -> None:
    if created:
        transaction.on_commit(partial(by_hand.delay, instance.pk))

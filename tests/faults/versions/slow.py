"""Handlers that take their time, of each kind that a worker may be stopped in the middle of."""

import os
import time
from pathlib import Path
from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_batch_receiver, async_receiver
from signalq.event import Event
from tests.testapp.models import Author, Book, Effect, Letter, Tag

SECONDS = float(os.environ.get("SIGNALQ_FAULTS_HANDLER_SECONDS", "0.2"))


@async_receiver(post_save, sender=Author, when=Created(), name="slow")
def slow(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    _say("slow", instance.pk)
    time.sleep(SECONDS)
    Effect.objects.create(receiver="slow", object_pk=str(instance.pk))


@async_receiver(post_save, sender=Letter, when=Created(), name="alone", atomic=False)
def alone(sender: type[Letter], instance: Letter, **kwargs: Any) -> None:
    _say("alone", instance.pk)
    time.sleep(SECONDS)
    Effect.objects.create(receiver="alone", object_pk=str(instance.pk))


@async_receiver(post_save, sender=Book, when=Created(), name="limited", soft_time_limit=1, retry_backoff=0.1)
def limited(sender: type[Book], instance: Book, **kwargs: Any) -> None:
    """The first attempt at one that is called slow takes longer than it may."""
    attempt = _say("limited", instance.pk)
    Effect.objects.create(receiver="limited", object_pk=str(instance.pk))
    if instance.title == "slow" and attempt == 1:
        time.sleep(30)


@async_batch_receiver(post_save, size=10, sender=Tag, when=Created(), name="batch")
def batch(events: list[Event]) -> None:
    time.sleep(SECONDS)
    for event in events:
        pk = event.arguments["instance"].pk
        _say("batch", pk)
        Effect.objects.create(receiver="batch", object_pk=str(pk))


def _say(name: str, pk: object) -> int:
    """Leave word outside the database, which no rollback undoes; how often that was for `pk`."""
    said = Path(os.environ["SIGNALQ_TEST_SCRATCH"]) / f"began-{name}-{pk}"
    with said.open("a") as file:
        file.write(f"{os.getpid()} {time.time()!r}\n")
    return len(said.read_text().splitlines())

"""Three receivers that keep score, and one that stays in its handler for as long as a test wants."""

import os
import time
from pathlib import Path
from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver
from tests.testapp.models import Author, Effect, Letter


@async_receiver(post_save, sender=Author, when=Created())
def first(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    Effect.objects.create(receiver="first", object_pk=str(instance.pk))


@async_receiver(post_save, sender=Author, when=Created())
def second(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    Effect.objects.create(receiver="second", object_pk=str(instance.pk))


@async_receiver(post_save, sender=Author, when=Created())
def third(sender: type[Author], instance: Author, **kwargs: Any) -> None:
    Effect.objects.create(receiver="third", object_pk=str(instance.pk))


@async_receiver(post_save, sender=Letter, when=Created())
def held(sender: type[Letter], instance: Letter, **kwargs: Any) -> None:
    """Writes, says so in a file, and waits inside its transaction until it is let go."""
    Effect.objects.create(receiver="held", object_pk=str(instance.pk))
    scratch = Path(os.environ["SIGNALQ_TEST_SCRATCH"])
    (scratch / f"held-{os.getpid()}-{instance.pk}").touch()
    while not (scratch / "release").exists():
        time.sleep(0.01)

"""One for each outcome, durable and transient."""

from typing import Any

from django.db.models.signals import post_save

from signalq import Created, async_receiver, current_delivery
from tests.testapp.models import Author, Book, Tag


@async_receiver(post_save, sender=Author, when=Created(), name="watched.done")
def done(instance: Author, **kwargs: Any) -> None: ...


@async_receiver(
    post_save, sender=Tag, when=Created(), name="watched.dead", max_retries=1, retry_backoff=0.1, retry_jitter=False
)
def dead(instance: Tag, **kwargs: Any) -> None:
    raise ValueError(f"durable, attempt {_attempt()}")


@async_receiver(
    post_save,
    sender=Book,
    when=Created(),
    name="watched.transient",
    durable=False,
    max_retries=1,
    retry_backoff=0.1,
    retry_jitter=False,
)
def transient(instance: Book, **kwargs: Any) -> None:
    raise ValueError(f"transient, attempt {_attempt()}")


def _attempt() -> int:
    delivery = current_delivery()
    assert delivery is not None
    return delivery.attempt

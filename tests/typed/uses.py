"""Right and wrong uses of the public face, for mypy and pyright: `make lint` reads it, nothing runs it.

A wrong line carries what makes a checker silent about it; one that has nothing to be silent about calls that an error.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models.signals import post_delete, post_save
from typing_extensions import assert_type

from signalq import AsyncReceiver, Created, Event, Sent, async_batch_receiver, async_receiver, current_delivery
from tests.testapp.models import Author


@async_receiver(post_save, sender=Author, when=Created() & ~Sent(raw=True), countdown=timedelta(minutes=1))
def typed(sender: type[Author], instance: Author, **kwargs: Any) -> int:
    return instance.counter


@async_receiver([post_save, post_delete], sender=["testapp.Author", Author], when=lambda instance, **kw: instance.pk)
def of_two_signals(**kwargs: Any) -> None: ...


@async_batch_receiver(post_save, sender=Author, size=50, coalesce=5)
def batched(events: list[Event]) -> None: ...


# The handler's own signature stays.
assert_type(typed(Author, Author()), int)
batched([])
name: str = typed.name
was_connected: bool = typed.disconnect()
delivery = current_delivery()
if delivery is not None:
    key: str = delivery.idempotency_key
generic: AsyncReceiver[..., Any] = typed

typed("not a model", Author())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
typed(Author)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
batched([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
typed.nmae  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018

async_receiver(post_save, retires=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
async_receiver(post_save, max_retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async_receiver(post_save, when=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async_receiver(post_save, durable="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async_receiver(post_save, countdown="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async_receiver("post_save")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async_batch_receiver(post_save, 50)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@async_batch_receiver(post_save)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def not_a_batch(sender: type[Author], instance: Author) -> None: ...

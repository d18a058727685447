"""What may become of an event: handled, failed, unknown here; durable and transient. Each has a signal of its own, so
that each has an outcome of its own."""

import os
from typing import Any

from django.dispatch import Signal

from signalq import async_receiver, current_delivery
from tests.testapp.models import Effect

durable_works, durable_fails, durable_unknown = Signal(), Signal(), Signal()
transient_works, transient_fails, transient_unknown = Signal(), Signal(), Signal()
ALL = (durable_works, durable_fails, durable_unknown, transient_works, transient_fails, transient_unknown)


def hears(text: str, **kwargs: Any) -> int:
    delivery = current_delivery()
    assert delivery is not None
    Effect.objects.create(receiver=delivery.receiver, note=text)
    return 17


def fails(text: str, **kwargs: Any) -> None:
    raise ValueError(f"{len(text)} characters are too many")


async_receiver(durable_works, name="durable.works", ignore_result=False)(hears)
async_receiver(durable_fails, name="durable.fails", ignore_result=False, max_retries=1, retry_backoff=0)(fails)
async_receiver(transient_works, name="transient.works", ignore_result=False, durable=False)(hears)
async_receiver(
    transient_fails, name="transient.fails", ignore_result=False, durable=False, max_retries=1, retry_backoff=0
)(fails)
if "CANARY_OLD_WORKER" not in os.environ:
    async_receiver(durable_unknown, name="durable.unknown")(hears)
    async_receiver(transient_unknown, name="transient.unknown", ignore_result=False, durable=False)(hears)

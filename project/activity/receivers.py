from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from django.core.signals import request_finished, request_started
from django.db.models import F
from django.dispatch import receiver
from django.utils import timezone

from project.activity.models import Day
from signalq import async_receiver

method: ContextVar[str] = ContextVar("method", default="")


# One of Django's own, beside ours: request_finished does not say which request it was.
@receiver(request_started, dispatch_uid="remember_method")
def remember_method(sender: type[Any], environ: dict[str, Any] | None = None, **kwargs: Any) -> None:
    method.set((environ or {}).get("REQUEST_METHOD", ""))


def changed_something(**kwargs: Any) -> bool:
    """The page asks for news every second; only what people do is counted."""
    return method.get() == "POST"


@async_receiver(request_finished, when=changed_something, durable=False, ignore_result=False)
def count_request(sender: type[Any], **kwargs: Any) -> int:
    today = Day.objects.get_or_create(date=timezone.localdate())[0]
    Day.objects.filter(pk=today.pk).update(requests=F("requests") + 1)
    today.refresh_from_db()
    return today.requests

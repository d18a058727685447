"""The page of one delivery: the event, the attempts, the cascade, and the ways on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.sites import AdminSite
from django.db import DatabaseError
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.dateparse import parse_datetime

from .. import codec
from ..event import Event
from ..exceptions import DecodeError
from ..flow import describe
from ..models import ERRORS_KEPT, Delivery
from ..queryset import State
from ..receivers import registry
from . import columns, masks, places
from .changelist import delivery_url, list_url


@dataclass(frozen=True)
class Attempt:
    """A failure, as it is on record."""

    number: int | None
    time: datetime | None
    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Related:
    """Another delivery of the cascade."""

    delivery: Delivery
    url: str
    badge: str


def context(site: AdminSite, request: HttpRequest, delivery: Delivery) -> dict[str, Any]:
    """What the page shows."""
    receiver = registry.get(delivery.receiver)
    event, damage = _event(delivery)
    may_read = request.user.has_perm("signalq.view_payload")
    using = str(delivery._state.db)
    return {
        "delivery": delivery,
        "using": using,
        "badge": columns.badge(delivery),
        "known": receiver is not None,  # not the receiver itself: a template calls what it can call
        "place": describe.place(receiver) if receiver else "",
        "event": event,
        "damage": damage,
        "may_read": may_read,
        "arguments": masks.arguments(event, receiver) if event and may_read else [],
        "attempts": attempts(delivery),
        "kept": ERRORS_KEPT if len(delivery.errors) == ERRORS_KEPT else 0,
        **_cascade(site, delivery, event),
        "object_url": _object_url(site, request, delivery),
        "result_url": _result_url(site, request, delivery),
        "replayable": delivery.state in (State.DEAD, State.DISCARDED),
        "discardable": delivery.state in (State.WAITING, State.QUEUED, State.DEAD),
        "action_url": list_url(site.name, using),
        "history_url": reverse("admin:signalq_delivery_history", args=[delivery.pk], current_app=site.name),
    }


def title(delivery: Delivery) -> str:
    """As its ``str``, in the reader's language."""
    return f"{delivery.receiver} #{delivery.pk} ({State(delivery.state).label})"


def attempts(delivery: Delivery) -> list[Attempt]:
    """The failures on record, the last one first."""
    return [
        Attempt(
            number=error.get("attempt"),
            time=parse_datetime(str(error.get("time", ""))),
            type=columns.type_name(error),
            message=str(error.get("message", "")),
            traceback=columns.traceback_of(error),
        )
        for error in reversed(delivery.errors)
    ]


def _event(delivery: Delivery) -> tuple[Event | None, str]:
    try:
        return codec.load_event(delivery.payload), ""
    except DecodeError as error:
        return None, str(error)


def _cascade(site: AdminSite, delivery: Delivery, event: Event | None) -> dict[str, Any]:
    """What caused its event, and what its handler caused, as far as that is in the same outbox."""
    if event is None:
        return {"parents": [], "children": [], "siblings": []}
    outbox = Delivery.objects.using(delivery._state.db)

    def related(ids: list[int]) -> list[Related]:
        rows = outbox.filter(pk__in=ids).exclude(pk=delivery.pk).defer("payload", "errors").order_by("pk")
        return [_related(site, row) for row in rows]

    parents = related(places.of_event(outbox, event.parent)) if event.parent else []
    # A parent's other receivers did not cause it.
    cause = event.chain[-1] if event.chain else ""
    return {
        "parents": [parent for parent in parents if parent.delivery.receiver == cause],
        "siblings": related(places.of_event(outbox, event.id)),
        "children": [_related(site, row) for row in places.caused_by(outbox, delivery, event)],
    }


def _related(site: AdminSite, row: Delivery) -> Related:
    return Related(row, delivery_url(row, site.name), columns.badge(row))


def _object_url(site: AdminSite, request: HttpRequest, delivery: Delivery) -> str:
    """The object's own page in the admin, if there is one for this user. Whether the row is still there, it says."""
    try:
        model = apps.get_model(delivery.sender)
        model_admin = site.get_model_admin(model)
        if delivery.object_pk and model_admin.has_view_or_change_permission(request):
            meta = model._meta
            name = f"admin:{meta.app_label}_{meta.model_name}_change"
            return reverse(name, args=[delivery.object_pk], current_app=site.name)
    except (LookupError, ValueError, NoReverseMatch, NotRegistered):
        pass
    return ""


def _result_url(site: AdminSite, request: HttpRequest, delivery: Delivery) -> str:
    """django-celery-results' row of it, if there is one."""
    if not apps.is_installed("django_celery_results") or not request.user.has_perm(
        "django_celery_results.view_taskresult"
    ):
        return ""
    model = apps.get_model("django_celery_results", "TaskResult")
    try:
        pk = model._default_manager.filter(task_id=delivery.result_id).values_list("pk", flat=True).first()
        name = "admin:django_celery_results_taskresult_change"
        return reverse(name, args=[pk], current_app=site.name) if pk is not None else ""
    except (DatabaseError, NoReverseMatch):
        return ""

"""The panel that this app brings to the page."""

from __future__ import annotations

from typing import Any

from django import template
from django_celery_results.models import TaskResult

from project.activity.models import Day

register = template.Library()


@register.inclusion_tag("activity/today.html")
def activity_today() -> dict[str, Any]:
    # All of them are count_request's: no other receiver asks for its results.
    results = TaskResult.objects.order_by("pk")
    return {"today": Day.objects.order_by("date").last(), "results": results.count(), "last": results.last()}

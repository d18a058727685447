"""The panel that this app brings to the page."""

from __future__ import annotations

from typing import Any

from django import template

from project.audit.models import Entry

register = template.Library()


@register.inclusion_tag("audit/log.html")
def audit_log() -> dict[str, Any]:
    return {"entries": Entry.objects.order_by("-pk")[:8]}

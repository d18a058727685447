"""The panels that this app brings to the page."""

from __future__ import annotations

from typing import Any

from django import template

from project.payments.models import Charge, Gateway

register = template.Library()


@register.inclusion_tag("payments/gateway.html", takes_context=True)
def gateway_switch(context: dict[str, Any]) -> dict[str, Any]:
    return {"csrf_token": context.get("csrf_token"), "gateway": Gateway.get()}


@register.simple_tag
def charges_count() -> int:
    return Charge.objects.count()

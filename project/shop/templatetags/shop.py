"""The panels that this app brings to the page."""

from __future__ import annotations

from typing import Any

from django import template

from project.shop.forms import EditForm, OrderForm, TagsForm
from project.shop.models import CustomerTotal, Notification, Order, Product, Tag

register = template.Library()


@register.inclusion_tag("shop/orders.html", takes_context=True)
def orders_panel(context: dict[str, Any]) -> dict[str, Any]:
    user = context["request"].user
    orders = Order.objects.filter(customer_id=user.pk).select_related("product").prefetch_related("tags")
    return {
        "csrf_token": context.get("csrf_token"),
        "user": user,
        "order_form": OrderForm(auto_id="order-%s"),
        "orders": [
            {
                "row": order,
                "edit": EditForm(instance=order, auto_id=f"order-{order.pk}-%s"),
                "tags": TagsForm(instance=order, auto_id=f"order-{order.pk}-%s"),
            }
            for order in orders.order_by("-pk")[:20]
        ],
    }


@register.inclusion_tag("shop/made.html", takes_context=True)
def shop_made(context: dict[str, Any]) -> dict[str, Any]:
    """What the receivers have made of the orders."""
    user = context["request"].user
    return {
        "user": user,
        "total": CustomerTotal.objects.filter(customer_id=user.pk).first(),
        "notifications": Notification.objects.filter(owner_id=user.pk).order_by("-pk")[:4],
        "products": Product.objects.order_by("name"),
        "tags": Tag.objects.order_by("name"),
    }

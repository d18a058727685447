"""What follows from an order.

Stock, totals and counts are counted anew under a lock, not added to: whatever order the deliveries come in, and
however many orders change at once, the last one to run leaves the right number.
"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.db.models import Count, F, Sum
from django.db.models.signals import m2m_changed, post_delete, post_save

from project.shop.models import CustomerTotal, Notification, Order, Product, Tag
from project.shop.signals import order_checked_out
from signalq import Created, Sent, async_receiver, current_delivery

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.models import QuerySet


class CourierUnavailableError(Exception):
    """The courier's service did not answer."""


@async_receiver(post_save, sender=Order, when=Created())
def notify_owner(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    Notification.objects.create(owner=instance.customer, text=f"We have your order {instance.pk}: {instance}.")


@async_receiver([post_save, post_delete], sender=Order)
def update_stock(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    product = Product.objects.select_for_update().get(pk=instance.product_id)
    product.sold = product.orders.aggregate(n=Sum("quantity", default=0))["n"]
    product.save(update_fields=["sold"])


@async_receiver([post_save, post_delete], sender=Order)
def update_total(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    # An order may go because its customer went.
    if not get_user_model().objects.filter(pk=instance.customer_id).exists():
        return
    CustomerTotal.objects.get_or_create(customer_id=instance.customer_id)
    total = CustomerTotal.objects.select_for_update().get(customer_id=instance.customer_id)
    counted = Order.objects.filter(customer_id=instance.customer_id).aggregate(
        orders=Count("pk"), amount=Sum(F("quantity") * F("product__price"), default=Decimal(0))
    )
    total.orders, total.amount = counted["orders"], counted["amount"]
    total.save()


@async_receiver(m2m_changed, sender=Order.tags.through, when=Sent(action="post_add") | Sent(action="post_remove"))
def update_tag_counts(sender: type[Any], pk_set: Iterable[int], **kwargs: Any) -> None:
    count_orders(Tag.objects.filter(pk__in=pk_set))


# Django sends no m2m_changed for the links that go with a deleted order.
@async_receiver(post_delete, sender=Order)
def update_all_tag_counts(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    count_orders(Tag.objects.all())


def count_orders(tags: QuerySet[Tag]) -> None:
    for tag in tags.select_for_update().order_by("pk"):
        tag.orders_count = tag.orders.count()
        tag.save(update_fields=["orders_count"])


# The flaky one: it fails twice, then succeeds.
@async_receiver(order_checked_out, atomic=False, max_retries=5, retry_backoff=1)
def book_courier(sender: type[Order], order: Order, **kwargs: Any) -> None:
    time.sleep(0.1)  # what a service somewhere else takes to answer
    delivery = current_delivery()
    if delivery and delivery.attempt <= 2:
        raise CourierUnavailableError("the courier's service timed out")
    Order.objects.filter(pk=order.pk).update(courier="Swift & Sons")

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from project.payments.models import Gateway
from project.shop.signals import order_checked_out
from signalq import async_receiver, current_delivery

if TYPE_CHECKING:
    from decimal import Decimal

    from django.db.models import Model


# A call to the outside may run twice, so it carries a key that is the same in every attempt. While the gateway is down
# this fails for good after three attempts, and waits as a dead letter for somebody to replay it.
@async_receiver(order_checked_out, atomic=False, max_retries=2, retry_backoff=1)
def capture_payment(sender: type[Model], order: Model, amount: Decimal, **kwargs: Any) -> None:
    delivery = current_delivery()
    key = delivery.idempotency_key if delivery else f"order {order.pk}"
    Gateway.get().charge(key, order.pk, amount)

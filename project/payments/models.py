from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    from decimal import Decimal


class GatewayDownError(Exception):
    """The payment gateway is down."""


class Gateway(models.Model):
    """The world outside: a gateway that is up or down, which a person switches on the page. One row."""

    up = models.BooleanField(default=True)

    def __str__(self) -> str:
        return "up" if self.up else "down"

    @classmethod
    def get(cls) -> Gateway:
        return cls.objects.get_or_create(pk=1)[0]

    def charge(self, key: str, order_id: int, amount: Decimal) -> None:
        """Charge once for each key, however often it is asked: gateways offer this for clients that repeat."""
        if not self.up:
            raise GatewayDownError("the payment gateway is down")
        Charge.objects.get_or_create(key=key, defaults={"order_id": order_id, "amount": amount})


class Charge(models.Model):
    key = models.CharField(max_length=200, unique=True)
    order_id = models.BigIntegerField()
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    def __str__(self) -> str:
        return f"{self.amount} for order {self.order_id}"

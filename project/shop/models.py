from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=60, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField(help_text="pieces delivered to us, ever")
    sold = models.PositiveIntegerField(default=0, help_text="kept by the receiver update_stock")

    def __str__(self) -> str:
        return self.name

    @property
    def left(self) -> int:
        return self.stock - self.sold


class Tag(models.Model):
    name = models.CharField(max_length=30, unique=True)
    orders_count = models.PositiveIntegerField(default=0, help_text="kept by the receiver update_tag_counts")

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="orders")
    product = models.ForeignKey(Product, models.PROTECT, related_name="orders")
    quantity = models.PositiveIntegerField(default=1)
    note = models.CharField(max_length=120, blank=True)
    tags = models.ManyToManyField(Tag, related_name="orders", blank=True)
    checked_out = models.BooleanField(default=False)
    courier = models.CharField(max_length=30, blank=True, help_text="kept by the receiver book_courier")

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"

    @property
    def amount(self) -> Decimal:
        return self.quantity * self.product.price


class CustomerTotal(models.Model):
    """What a customer has ordered so far; kept by the receiver update_total."""

    customer = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE)
    orders = models.PositiveIntegerField(default=0)
    amount = models.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))

    def __str__(self) -> str:
        return f"{self.orders} orders of {self.customer}"


class Notification(models.Model):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    text = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text

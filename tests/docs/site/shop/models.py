"""What the pages take for granted; a page that shows its own replaces it."""

from django.conf import settings
from django.db import models


class Profile(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)


class Product(models.Model):
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2)


class Order(models.Model):
    status = models.CharField(max_length=20, default="draft")
    total = models.DecimalField(max_digits=8, decimal_places=2, default=0)

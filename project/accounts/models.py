from __future__ import annotations

from django.conf import settings
from django.db import models


class Profile(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"profile of {self.user}"


class Subscription(models.Model):
    """A place on the newsletter's list."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE)

    def __str__(self) -> str:
        return f"newsletter for {self.user}"

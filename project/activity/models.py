from __future__ import annotations

from django.db import models


class Day(models.Model):
    date = models.DateField(unique=True)
    requests = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.requests} requests on {self.date}"

from django.db import models


class Thing(models.Model):
    """What is saved."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Effect(models.Model):
    """What a handler writes. Not unique, so that doubles show."""

    thing_id = models.BigIntegerField()
    at = models.FloatField()
    """The machine's monotonic clock when the handler began: one for all processes."""

    def __str__(self) -> str:
        return f"effect for {self.thing_id}"


class Stock(models.Model):
    """One of the rows that many handlers update."""

    count = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.count}"

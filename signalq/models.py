"""Delivery: a row of the outbox, and its transitions, by name. Those of many rows are in queryset.py."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .exceptions import LeaseLost
from .queryset import DeliveryQuerySet, State, after

ERRORS_KEPT = 5


class Delivery(models.Model):
    """One event on its way to one receiver."""

    State = State

    id = models.BigAutoField(primary_key=True)
    event_id = models.UUIDField(_("event"))
    receiver = models.CharField(_("receiver"), max_length=255)
    signal = models.CharField(_("signal"), max_length=255)
    sender = models.CharField(_("sender"), max_length=255)
    object_pk = models.CharField(_("object"), max_length=255)
    key = models.CharField(_("key"), max_length=255)
    state = models.CharField(_("state"), max_length=9, choices=State.choices)
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    attempts_before = models.PositiveIntegerField(_("attempts before its replay"), default=0)
    """Attempts that no longer count, because a person replayed the delivery after them."""
    lost_leases = models.PositiveSmallIntegerField(_("lost leases"), default=0)
    due_at = models.DateTimeField(_("due at"), null=True)
    """When the relay looks at it next; a running one's lease. NULL when finished."""
    payload = models.TextField(_("payload"))
    """The event as text: jsonb refuses NUL, lone surrogates and NaN, and changes 1e16 into an integer."""
    errors: models.JSONField[Any, list[dict[str, Any]]] = models.JSONField(_("errors"), default=list)
    """The last few: attempt, time, type, message, traceback."""
    created_at = models.DateTimeField(_("created at"))
    finished_at = models.DateTimeField(_("finished at"), null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        indexes = (
            models.Index(fields=["due_at"], name="signalq_due"),
            models.Index(fields=["finished_at"], name="signalq_finished"),
            # For ordered and coalescing receivers; the others leave the key empty.
            models.Index(fields=["key", "due_at"], name="signalq_key"),
        )

    def __str__(self) -> str:
        return f"{self.receiver} #{self.pk} ({self.state})"

    @property
    def tries(self) -> int:
        """The attempts that count towards max_retries."""
        return self.attempt - self.attempts_before

    def set_done(self) -> None:
        """The handler's work is done. Raises LeaseLost, as every transition of a running delivery does."""
        self._settle(state=State.DONE, due_at=None, finished_at=Now())

    def set_waiting(self, countdown: float, errors: list[dict[str, Any]]) -> None:
        """Another attempt is due in ``countdown`` seconds."""
        self._settle(state=State.WAITING, due_at=after(countdown), errors=errors)

    def set_dead(self, errors: list[dict[str, Any]]) -> None:
        """No attempt is left, or none would help: a dead letter."""
        self._settle(state=State.DEAD, due_at=None, finished_at=Now(), errors=errors)

    def set_discarded(self, errors: list[dict[str, Any]]) -> None:
        """There is nothing to do; the last of ``errors`` says why."""
        self._settle(state=State.DISCARDED, due_at=None, finished_at=Now(), errors=errors)

    def with_error(self, type_name: str, message: str, traceback: str = "") -> list[dict[str, Any]]:
        """The errors with one more, the oldest dropped beyond ERRORS_KEPT."""
        error = {
            "attempt": self.attempt,
            "time": timezone.now().isoformat(),
            "type": type_name,
            "message": _printable(message)[:1_000],
            "traceback": _printable(traceback)[-10_000:],
        }
        return [*self.errors, error][-ERRORS_KEPT:]

    def _settle(self, **changes: Any) -> None:
        if not Delivery.objects.using(self._state.db).held([self]).update(**changes):
            raise LeaseLost(f"{self.receiver} #{self.pk}: attempt {self.attempt} is no longer this worker's.")
        self.state = changes["state"]


def _printable(text: str) -> str:
    """``text`` without what a database's JSON refuses: NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")

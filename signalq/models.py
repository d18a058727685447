"""Delivery: a row of the outbox, and its transitions, by name. Those of many rows are in queryset.py."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .event import delivery_id
from .exceptions import LeaseLost
from .queryset import DeliveryQuerySet, State, after
from .texts import printable

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
    """Attempts that do not count: a person replayed the delivery after them, or the worker was too old for it."""
    lost_leases = models.PositiveSmallIntegerField(_("lost leases"), default=0)
    repeats = models.PositiveIntegerField(_("repeats"), default=0)
    """How often the relay has published it again since it was queued, and nobody claimed it."""
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
        permissions = (
            ("replay_delivery", "Can replay deliveries"),
            ("discard_delivery", "Can discard deliveries"),
            ("view_payload", "Can see what an event holds"),
        )
        indexes = (
            # The relay's: what it leaves alone it does not read.
            models.Index(fields=["receiver", "state", "due_at"], name="signalq_due"),
            # For pruning: dead ones stay, and are not read either.
            models.Index(fields=["state", "finished_at"], name="signalq_finished"),
            # For ordered and coalescing receivers, the open ones of a key in their order; the others have no key.
            models.Index(fields=["key", "finished_at", "id"], name="signalq_key"),
        )

    def __str__(self) -> str:
        return f"{self.receiver} #{self.pk} ({self.state})"

    @property
    def result_id(self) -> str:
        """Its id in the result backend; its handler's ``idempotency_key``, unless others were coalesced into it."""
        return str(delivery_id(self.event_id, self.receiver))

    @property
    def tries(self) -> int:
        """The attempts that count towards max_retries."""
        return self.attempt - self.attempts_before

    def set_done(self) -> None:
        """The handler's work is done. Raises LeaseLost, as every transition of a running delivery does."""
        if not Delivery.objects.using(self._state.db).set_done([self]):
            raise self._lost()
        self.state = State.DONE

    def set_waiting(self, countdown: float, errors: list[dict[str, Any]], *, counts: bool = True) -> None:
        """Another attempt is due in ``countdown`` seconds; ``counts``: this one does towards max_retries."""
        before = F("attempts_before") + (0 if counts else 1)
        self._settle(state=State.WAITING, due_at=after(countdown), errors=errors, attempts_before=before)

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
            "type": printable(type_name),
            "message": printable(message)[:1_000],
            "traceback": printable(traceback)[-10_000:],
        }
        return [*self.errors, error][-ERRORS_KEPT:]

    def _settle(self, **changes: Any) -> None:
        if not Delivery.objects.using(self._state.db).held([self]).update(**changes):
            raise self._lost()
        self.state = changes["state"]

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"{self.receiver} #{self.pk}: attempt {self.attempt} is no longer this worker's.")

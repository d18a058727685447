"""Everything signalq raises. Each message names the thing that is wrong and the way out."""

from __future__ import annotations

from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured


class SignalqError(Exception):
    """Base of every error that signalq raises."""


class RegistrationError(SignalqError, ImproperlyConfigured):
    """A receiver cannot be registered as it is written."""


class CaptureError(SignalqError, ValueError):
    """A sent signal cannot be turned into an event: an argument cannot be carried, or it is too large."""


class CascadeError(CaptureError):
    """Handlers cause each other's events beyond MAX_DEPTH: most often a handler whose own save triggers it."""


class ConditionError(SignalqError):
    """A receiver's ``when=`` raised."""


class ContextError(SignalqError):
    """What travels with an event could not be captured, or not be made active: a function registered for it raised."""


class DecodeError(SignalqError, ValueError):
    """An event's text cannot be turned back into an event here."""


class NewerVersion(DecodeError):
    """An event was written by a newer signalq than this worker's: it is parked, not failed."""


class OutboxMissing(SignalqError):
    """The outbox table does not exist on the database whose transaction captured an event."""


class CeleryAppMissing(SignalqError, ImproperlyConfigured):
    """No Celery app is loaded in this process, and Celery's default app would talk to the wrong broker."""


class MessageRefused(SignalqError):
    """A broker message is not one of signalq's, is forged, or is damaged."""


class LeaseLost(SignalqError):
    """The delivery was given to another worker while this one ran it: this attempt's writes are rolled back."""


class BrokenTransaction(SignalqError):
    """The handler returned, but a database error that it swallowed has broken its transaction."""


class HandlerError(SignalqError):
    """A handler raised what means something else elsewhere; its cause is what it raised."""


class ObjectGone(SignalqError):
    """The row that an event is about was deleted before its handler could run."""


class Retry(SignalqError):
    """Raised by a handler: roll this attempt back and run again.

    ``countdown`` is the delay in seconds, or a timedelta; None takes the receiver's backoff.
    The attempt counts towards ``max_retries``.
    """

    def __init__(self, reason: str = "", *, countdown: float | timedelta | None = None) -> None:
        super().__init__(reason or "the handler asked for a retry")
        self.countdown = countdown.total_seconds() if isinstance(countdown, timedelta) else countdown


class Discard(SignalqError):
    """Raised by a handler: roll this attempt back and do not run again; ``reason`` is kept on the delivery."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler discarded it")
        self.reason = str(self)

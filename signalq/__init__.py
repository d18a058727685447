"""Django signal handlers in Celery workers, after the commit, without losing one."""

from .conditions import Condition, Created, Sent
from .context import CurrentDelivery, current_delivery
from .event import Event
from .exceptions import CaptureError, Discard, RegistrationError, Retry, SignalqError
from .receivers import AsyncReceiver, async_batch_receiver, async_receiver

__version__ = "0.1.0"

__all__ = [
    "AsyncReceiver",
    "CaptureError",
    "Condition",
    "Created",
    "CurrentDelivery",
    "Discard",
    "Event",
    "RegistrationError",
    "Retry",
    "Sent",
    "SignalqError",
    "async_batch_receiver",
    "async_receiver",
    "current_delivery",
]

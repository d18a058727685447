"""Django signal handlers in Celery workers, after the commit, without losing one."""

from .changes import ANY, Changed
from .conditions import Condition, Created, Sent
from .context import CurrentDelivery, current_delivery, register_context, unregister_context
from .event import Event, Old, RequestSnapshot
from .exceptions import CaptureError, ConditionError, ContextError, Discard, RegistrationError, Retry, SignalqError
from .muting import muted
from .receivers import AsyncReceiver, async_batch_receiver, async_receiver
from .saving import AtomicSave
from .surroundings import acurrent_user, current_trace, current_user

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "AsyncReceiver",
    "AtomicSave",
    "CaptureError",
    "Changed",
    "Condition",
    "ConditionError",
    "ContextError",
    "Created",
    "CurrentDelivery",
    "Discard",
    "Event",
    "Old",
    "RegistrationError",
    "RequestSnapshot",
    "Retry",
    "Sent",
    "SignalqError",
    "acurrent_user",
    "async_batch_receiver",
    "async_receiver",
    "current_delivery",
    "current_trace",
    "current_user",
    "muted",
    "register_context",
    "unregister_context",
]

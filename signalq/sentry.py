"""Sentry: whatever it is told while a delivery runs, or of its end, has receiver and delivery as tags.

The errors themselves need nothing from here. A dead letter is logged as an error with its traceback, which Sentry's own
logging integration sends; a transient receiver's error fails its Celery task, which Sentry's Celery integration sends.
"""

from __future__ import annotations

from typing import Any

import sentry_sdk

from . import signals


def connect() -> None:
    """Called by AppConfig.ready where the project has loaded sentry_sdk, before what is logged is connected."""
    for signal in (signals.delivery_started, signals.delivery_dead):  # the latter alone comes from a relay
        signal.connect(_tag, dispatch_uid="signalq.sentry")


def _tag(sender: Any, delivery: Any, **kwargs: Any) -> None:
    number = "" if delivery.pk is None else str(delivery.pk)
    sentry_sdk.set_tags(
        {
            "signalq.receiver": sender.name,
            "signalq.delivery": number or delivery.result_id,
            "signalq.event": str(delivery.event_id),
            "signalq.attempt": str(delivery.attempt),
        }
    )

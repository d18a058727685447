"""Checks of Celery's settings: what a project should have before it is deployed.

They are Django's deployment checks (``manage.py check --deploy``), as Celery's defaults fail some of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.core.checks import CheckMessage, Warning as CheckWarning

from .. import conf, wire
from ..exceptions import CeleryAppMissing
from ..receivers import registry

VISIBILITY_TIMEOUT = 3600.0
"""kombu's own, where the project sets none."""
_UNSAFE = {
    "pickle": "pickle",
    "application/x-python-serialize": "pickle",
    "yaml": "yaml",
    "application/x-yaml": "yaml",
}


def advise(number: str, message: str, hint: str) -> list[CheckMessage]:
    return [CheckWarning(message, hint=hint, id=f"signalq.{number}")]


def _check(function: Callable[[Any], list[CheckMessage]]) -> Callable[..., list[CheckMessage]]:
    """Ask ``function`` about Celery's settings where there are receivers; E001 says it where there is no app."""

    def check(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
        if not registry or not conf.current().PUBLISH:
            return []
        try:
            return function(wire.celery_app().conf)
        except CeleryAppMissing:
            return []

    check.__name__, check.__doc__ = function.__name__, function.__doc__
    return check


@_check
def check_accept_content(settings: Any) -> list[CheckMessage]:
    """W002: a worker that unpickles what it finds in its queue."""
    unsafe = sorted({_UNSAFE[kind] for kind in settings.accept_content or () if kind in _UNSAFE})
    if not unsafe:
        return []
    return advise(
        "W002",
        f"The workers accept {' and '.join(unsafe)}: whoever can write to the broker can run code in them.",
        'CELERY_ACCEPT_CONTENT = ["json"]',
    )


@_check
def check_remote_control(settings: Any) -> list[CheckMessage]:
    """W003: anybody who reaches the broker may stop the workers."""
    if not settings.worker_enable_remote_control:
        return []
    return advise(
        "W003",
        "The workers obey remote control: whoever can write to the broker can shut them down.",
        "CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  (celery inspect and celery control find nobody then; "
        "manage.py signalq status reads the outbox.)",
    )


@_check
def check_visibility_timeout(settings: Any) -> list[CheckMessage]:
    """W004: Redis hands out again what is still being worked on."""
    if _transport(settings) != "redis":
        return []
    needed, why = _longest(settings)
    given = settings.broker_transport_options or {}
    timeout = float(given.get("visibility_timeout", VISIBILITY_TIMEOUT))
    if timeout >= needed:
        return []
    return advise(
        "W004",
        f"Redis hands a message out again after {timeout:g} s (visibility_timeout), before {why} is over "
        f"({needed:g} s): a transient delivery would run twice, and a wake-up call comes twice for nothing.",
        f"CELERY_BROKER_TRANSPORT_OPTIONS = { ({**given, 'visibility_timeout': max(3600, math.ceil(2 * needed))})!r}",
    )


@_check
def check_confirms(settings: Any) -> list[CheckMessage]:
    """W005: RabbitMQ says OK to messages that it drops."""
    options = settings.broker_transport_options or {}
    if _transport(settings) != "amqp" or options.get("confirm_publish"):
        return []
    return advise(
        "W005",
        "RabbitMQ is not asked to confirm what this project's own code sends. signalq asks for confirms itself; "
        "retries of transient deliveries and your other tasks are lost without a word under a memory alarm.",
        f"CELERY_BROKER_TRANSPORT_OPTIONS = { ({**options, 'confirm_publish': True})!r}",
    )


@_check
def check_result_extended(settings: Any) -> list[CheckMessage]:
    """W006: arguments in the clear, next to each result."""
    if not settings.result_extended:
        return []
    return advise(
        "W006",
        "The result backend keeps the arguments of every task in the clear: those of a transient delivery with "
        "ignore_result=False are the event itself.",
        "CELERY_RESULT_EXTENDED = False",
    )


@_check
def check_transport(settings: Any) -> list[CheckMessage]:
    """W009: a broker that forgets what a worker had in its hands."""
    transport = _transport(settings)
    if transport not in _FORGETFUL:
        return []
    return advise(
        "W009",
        f"The broker's transport {transport!r} {_FORGETFUL[transport]}: transient deliveries are lost, durable ones "
        "wait for a relay.",
        "Redis or RabbitMQ: CELERY_BROKER_URL",
    )


@_check
def check_always_eager(settings: Any) -> list[CheckMessage]:
    """W010: no worker is ever asked."""
    if not settings.task_always_eager:
        return []
    return advise(
        "W010",
        "Tasks run eagerly: handlers run in a thread of the web process that saved, and no worker gets a message.",
        "CELERY_TASK_ALWAYS_EAGER = False; for tests there is signalq.testing.",
    )


@_check
def check_reject(settings: Any) -> list[CheckMessage]:
    """W017: what kills a worker is handed to the next one, without end."""
    transient = [receiver.name for receiver in registry.all() if not receiver.options.durable]
    if not (settings.task_reject_on_worker_lost and transient):
        return []
    return advise(
        "W017",
        f"A transient delivery that kills its worker is given to the next one, and so on without end: {transient[0]}.",
        "CELERY_TASK_REJECT_ON_WORKER_LOST = False, or durable=True, which gives up after three.",
    )


@_check
def check_delivery_mode(settings: Any) -> list[CheckMessage]:
    """W018: RabbitMQ keeps messages in memory alone."""
    if _transport(settings) != "amqp" or settings.task_default_delivery_mode not in (1, "transient"):
        return []
    return advise(
        "W018",
        "RabbitMQ forgets messages when it restarts: transient deliveries are lost, durable ones wait for a relay.",
        'CELERY_TASK_DEFAULT_DELIVERY_MODE = "persistent"',
    )


@_check
def check_reuse(settings: Any) -> list[CheckMessage]:
    """W012: a database connection a message."""
    if settings.get("CELERY_DB_REUSE_MAX"):
        return []
    return advise(
        "W012",
        "Celery closes the database connections after each message, whatever CONN_MAX_AGE says: every one begins with "
        "new ones, which is most of the time of a short handler.",
        "CELERY_DB_REUSE_MAX = 1000, and CONN_MAX_AGE in DATABASES",
    )


_FORGETFUL = {
    "memory": "is one process's own memory",
    "filesystem": "loses what was in flight when a worker dies",
    "sqla": "loses what was in flight when a worker dies",
    "sqlalchemy": "loses what was in flight when a worker dies",
}


ALL = (
    check_transport,
    check_always_eager,
    check_reject,
    check_delivery_mode,
    check_reuse,
    check_accept_content,
    check_remote_control,
    check_visibility_timeout,
    check_confirms,
    check_result_extended,
)


def _transport(settings: Any) -> str:
    """The kind of broker, told by its url: a check opens no connection."""
    url = settings.broker_url
    first = (url[0] if url else "") if isinstance(url, list | tuple) else str(url or "amqp").split(";")[0]
    scheme = urlsplit(first if "://" in first else f"{first}://").scheme.partition("+")[0]
    return {"rediss": "redis", "sentinel": "redis", "pyamqp": "amqp", "amqps": "amqp"}.get(scheme, scheme)


def _longest(settings: Any) -> tuple[float, str]:
    """How long a message may be in a worker's hands, and what says so."""
    times = [(conf.current().LEASE, "the setting LEASE")]
    for receiver in registry.all():
        options = receiver.options
        if options.durable:
            continue  # its message is acknowledged at once, and it waits in the outbox
        limit = options.time_limit or options.soft_time_limit or settings.task_time_limit or 0
        # Celery holds what is not due yet in the worker that took it.
        retries = 32 if options.max_retries is None else min(options.max_retries, 32)
        backoff = min(options.retry_backoff * 2 ** (retries - 1), options.retry_backoff_max) if retries else 0
        times += [
            (float(limit), f"the time limit of {receiver.name}"),
            (options.countdown, f"the countdown of {receiver.name}"),
            (backoff, f"the longest backoff of {receiver.name}"),
        ]
    return max(times, key=lambda time: time[0])

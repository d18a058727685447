"""Celery's settings, each with its reason. A `CELERY_...` line in the Django settings overrides one."""

from typing import Any

DEFAULTS: dict[str, Any] = {
    # --- What a worker is willing to read ---
    # JSON only: whoever can write to the broker could run code through pickle.
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    # Whoever reaches the broker could otherwise broadcast "shutdown" to all workers. The price: `celery inspect` and
    # `celery control` find nobody; `manage.py signalq status` reads the outbox instead.
    "worker_enable_remote_control": False,
    #
    # --- What leaves the process ---
    # With result_extended the arguments lie readable in the result backend, next to every result (CVE-2020-17495).
    "result_extended": False,
    # A receiver's return value goes nowhere, as with Django's own; `ignore_result=False` on one receiver keeps its.
    "task_ignore_result": True,
    # Events for monitors repeat the arguments of every task in the clear.
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    #
    # --- A broker that is away ---
    # A publisher does not wait for a broker that refuses: what it cannot send the relay sends later. It has to be a
    # policy without retries: with `task_publish_retry = False`, kombu's own connection retries take six seconds.
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": 0},
    # A connection attempt to a host that swallows packets ends after this many seconds, not after four.
    "broker_connection_timeout": 1.0,
    # The worker, on the other hand, waits for its broker for ever, at its start and later.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    #
    # --- Work in hand ---
    # A child fetches one message ahead, no more: one slow handler does not hold back what an idle child could do, and
    # a worker that is killed leaves little behind.
    "worker_prefetch_multiplier": 1,
    # Celery closes the database connection around every task unless told to keep it for that many. Opening one costs
    # more than most handlers do: 171 tasks a second instead of 688.
    "CELERY_DB_REUSE_MAX": 1000,
}


def transport_options(broker_url: str) -> dict[str, Any]:
    """What to tell the transport; each kind of broker has words of its own."""
    if broker_url.startswith("amqp"):
        # Without confirms RabbitMQ says OK to messages that it drops: memory alarm, size limit.
        return {"confirm_publish": True}
    # Redis hands an unacknowledged message to another worker after this. It must be longer than the longest handler,
    # or that runs twice at the same time; recovery does not hang on it, since the relay watches the leases.
    return {"visibility_timeout": 3600, "socket_connect_timeout": 1, "socket_keepalive": True}

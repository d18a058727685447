"""Those of a site whose queues are RabbitMQ's replicated ones, as Celery's documentation has it; a short GRACE."""

from tests.integration.settings import *  # noqa: F403

SIGNALQ: dict[str, object] = {"GRACE": 1}
CELERY_TASK_DEFAULT_QUEUE_TYPE = "quorum"
CELERY_BROKER_TRANSPORT_OPTIONS = {"confirm_publish": True}

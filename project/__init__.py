"""The demo: a small shop whose apps talk through signals, and whose receivers run in Celery workers."""

# So that the web process has the app too: signalq publishes through the current one, and without this line Celery
# would make one up that knows nothing of our broker.
from worker import app as celery_app

__all__ = ["celery_app"]

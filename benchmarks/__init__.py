"""signalq, hand-written Celery and peers, measured side by side: `make bench`."""

"""Handlers that all update the same few rows: by signalq, and by hand with a task for each."""

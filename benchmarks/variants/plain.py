"""Nothing listens: what a save costs by itself."""

APPS = ["signalq"]


def connect() -> None:
    pass

from django.apps import AppConfig


class PostConfig(AppConfig):
    """One receiver with a queue of its own."""

    name = "tests.smoke.post"

    def ready(self) -> None:
        from tests.smoke.post import receivers  # noqa: F401

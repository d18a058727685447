from django.apps import AppConfig


class WatchedConfig(AppConfig):
    name = "tests.integration.watched"

    def ready(self) -> None:
        from tests.integration import celeryapp  # noqa: F401
        from tests.integration.watched import receivers  # noqa: F401

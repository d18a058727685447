from django.apps import AppConfig


class CanaryConfig(AppConfig):
    name = "tests.integration.canary"

    def ready(self) -> None:
        from tests.integration import celeryapp  # noqa: F401
        from tests.integration.canary import receivers  # noqa: F401

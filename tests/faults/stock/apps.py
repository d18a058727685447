from django.apps import AppConfig


class StockConfig(AppConfig):
    name = "tests.faults.stock"

    def ready(self) -> None:
        from tests.faults.stock import receivers  # noqa: F401
        from tests.integration import celeryapp  # noqa: F401

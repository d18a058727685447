from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "tests.integration.shop"

    def ready(self) -> None:
        # The Celery app has to be loaded in the saving process, too, as a project's __init__.py does it.
        from tests.integration import celeryapp  # noqa: F401
        from tests.integration.shop import receivers  # noqa: F401

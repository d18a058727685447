from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "benchmarks.shop"

    def ready(self) -> None:
        """Wire what is measured, as a project does it: in ready()."""
        from django.conf import settings

        settings.VARIANT.connect()

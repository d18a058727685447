from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "project.shop"
    label = "shop"

    def ready(self) -> None:
        from project.shop import receivers  # noqa: F401

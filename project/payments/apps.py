from django.apps import AppConfig


class PaymentsConfig(AppConfig):
    name = "project.payments"
    label = "payments"

    def ready(self) -> None:
        from project.payments import receivers  # noqa: F401

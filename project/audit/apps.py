from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "project.audit"
    label = "audit"

    def ready(self) -> None:
        from project.audit import receivers  # noqa: F401

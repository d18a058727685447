from django.apps import AppConfig


class ActivityConfig(AppConfig):
    name = "project.activity"
    label = "activity"

    def ready(self) -> None:
        from project.activity import receivers  # noqa: F401

import os
from importlib import import_module

from django.apps import AppConfig


class VersionsConfig(AppConfig):
    name = "tests.faults.versions"

    def ready(self) -> None:
        import_module("tests.integration.celeryapp")
        import_module(f"tests.faults.versions.{os.environ['SIGNALQ_FAULTS_VERSION']}")

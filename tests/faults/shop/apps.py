"""Wires the receivers of signalq, the hand-written ones, or both, as SIGNALQ_FAULTS_CODE says."""

import os
from importlib import import_module

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "tests.faults.shop"

    def ready(self) -> None:
        import_module("tests.integration.celeryapp")
        code = os.environ.get("SIGNALQ_FAULTS_CODE", "both")
        for kind in ("ours", "control") if code == "both" else (code,):
            import_module(f"tests.faults.shop.{kind}")

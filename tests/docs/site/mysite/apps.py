import importlib
from pathlib import Path

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class SiteConfig(AppConfig):
    """What each app's own `ready()` would do."""

    name = "mysite"

    def ready(self):
        autodiscover_modules("receivers", "tasks")
        for snippet in sorted((Path(self.path).parent / "shop").glob("snippet_*.py")):
            importlib.import_module(f"shop.{snippet.stem}")

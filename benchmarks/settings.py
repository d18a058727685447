"""Django settings of every process that is measured; what differs between variants comes from the environment."""

import importlib
import json
import os

VARIANT = importlib.import_module(f"benchmarks.variants.{os.environ.get('BENCH_VARIANT', 'plain')}")

SECRET_KEY = "not a secret: benchmarks only"  # noqa: S105
USE_TZ = True
TIME_ZONE = "UTC"
DATABASES = {"default": json.loads(os.environ["BENCH_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    *VARIANT.APPS,
    "benchmarks.shop",
]
CELERY_BROKER_URL = os.environ["BROKER_URL"]
# What the variant's own library wants to read here.
globals().update(getattr(VARIANT, "SETTINGS", {}))
# Of the run: SIGNALQ, or Celery's.
globals().update(json.loads(os.environ.get("BENCH_SETTINGS", "{}")))

if DATABASES["default"]["ENGINE"].endswith("mysql"):
    import pymysql

    pymysql.version_info = (2, 2, 8, "final", 1)
    pymysql.install_as_MySQLdb()

if getattr(VARIANT, "CELERY", False):
    # In the place of a project's __init__.py, which Celery's documentation has import the app: this package's is
    # shared with variants that have no Celery.
    from benchmarks import celeryapp  # noqa: F401

"""The integration tests' settings, with connections out of psycopg's pool."""

from tests.integration.settings import *  # noqa: F403
from tests.integration.settings import DATABASES as PLAIN

DATABASES = {"default": {**PLAIN["default"], "OPTIONS": {"pool": {"min_size": 1, "max_size": 4, "timeout": 10}}}}

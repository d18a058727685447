"""Settings of the workers, relays and saving processes here."""

from tests.integration.settings import *  # noqa: F403
from tests.integration.settings import INSTALLED_APPS as INTEGRATION_APPS

INSTALLED_APPS = [*INTEGRATION_APPS, "tests.smoke.post"]
# A loss is noticed soon: the defaults are 20 and 10 seconds.
SIGNALQ = {"LEASE": 2, "GRACE": 1}

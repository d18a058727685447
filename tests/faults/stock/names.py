"""Which rows an intent is about. Apart from the receivers, which a test must not import: they would be connected."""

import os
import random

from tests.testapp.models import Intent

ROWS = 20
EACH = int(os.environ.get("SIGNALQ_FAULTS_ROWS_EACH", "1"))
"""How many of them a handler updates."""


def names(intent: Intent, each: int = EACH) -> list[str]:
    """The counters that belong to `intent`, in any order: with two of them handlers run into each other's arms."""
    return [f"{intent.name} {row}" for row in random.Random(intent.pk).sample(range(ROWS), each)]

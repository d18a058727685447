"""`python -m tests.compose.play PROJECT`: the demo's scenario on a stack that is up. Its settings are the demo's."""

from __future__ import annotations

import os
import sys

import django

from tests.compose.stack import Compose

if __name__ == "__main__":
    django.setup()
    from project.demo.play import play

    sys.exit(play(Compose(sys.argv[1], os.environ["COMPOSE_BROKER_URL"])))

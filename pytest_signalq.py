"""The pytest plugin: one fixture, ``deliveries``.

Outside the package on purpose: pytest loads it in every project of an environment that has signalq installed, and
importing anything of ``signalq`` imports Django and Celery. It does so when a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalq.testing import Deliveries


@pytest.fixture
def deliveries() -> Iterator[Deliveries]:
    """What async receivers are to handle, captured instead of published: signalq.testing.Deliveries."""
    from signalq.testing import capturing

    with capturing() as captured:
        yield captured

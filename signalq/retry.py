"""When to try again: pure functions over a receiver's retry options."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """A receiver's retry options, with the names and meaning they have in Celery.

    Source: Celery's documentation, "Automatic retry for known exceptions".
    """

    max_retries: int | None = 20
    """Retries after the first attempt; None: for ever; 0: one attempt."""
    backoff: float = 1.0
    """Seconds before the first retry; doubled for each further one. 0: at once."""
    backoff_max: float = 3600.0
    """Seconds between two attempts, at the most."""
    jitter: bool = True
    """Take a random delay between nothing and the backoff, so that failures do not come back in step."""
    autoretry_for: tuple[type[BaseException], ...] = (Exception,)
    dont_autoretry_for: tuple[type[BaseException], ...] = ()

    def retries(self, error: BaseException, attempt: int) -> bool:
        """Whether ``error`` in attempt number ``attempt`` (from 1) deserves another one."""
        wanted = isinstance(error, self.autoretry_for) and not isinstance(error, self.dont_autoretry_for)
        return wanted and self.has_left(attempt)

    def has_left(self, attempt: int) -> bool:
        """Whether an attempt is left after number ``attempt`` (from 1)."""
        return self.max_retries is None or attempt <= self.max_retries

    def delay(self, attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1)."""
        # 2 ** 64 seconds is beyond any backoff_max; the bound keeps the power from overflowing a float.
        ceiling = min(self.backoff * 2.0 ** min(attempt - 1, 64), self.backoff_max)
        return uniform(0.0, ceiling) if self.jitter else ceiling

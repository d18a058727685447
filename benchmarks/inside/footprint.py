"""How much memory this process holds that no other shares."""

from __future__ import annotations

import gc
from typing import Any

import psutil


def memory() -> dict[str, Any]:
    gc.collect()
    return {"mib": psutil.Process().memory_full_info().uss / 2**20}

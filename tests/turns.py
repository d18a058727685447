"""Tests that compare times, marked `alone`, run while no other does: the processes of pytest-xdist take turns."""

from __future__ import annotations

import contextlib
import fcntl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def turn(directory: Path, alone: bool) -> Iterator[None]:
    """A room for any number, or for one alone, who keeps its door shut until it is empty and left again."""
    with (directory / "door").open("w") as door, (directory / "room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield  # closing a file unlocks it

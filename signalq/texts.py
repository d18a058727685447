"""Texts of errors, for people: never an error themselves, whatever they tell of."""

from __future__ import annotations

import traceback


def told(error: BaseException) -> str:
    """Type and message of somebody's error; not str(error), which may itself raise: KeyError(10**5000) does."""
    return "".join(traceback.format_exception_only(type(error), error)).strip()[:500]


def message(error: BaseException) -> str:
    """Its message, or why there is none."""
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - its __str__ is the user's, and KeyError(10**5000) has no text either
        return f"(its text cannot be had: {type(another).__name__})"


def printable(text: str) -> str:
    """``text`` without what a database's JSON or text column refuses: NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")

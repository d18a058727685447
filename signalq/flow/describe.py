"""A receiver in words: where it is written, what it listens to, what is special about it."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..conditions import Condition
from ..options import Options
from ..receivers import AsyncReceiver

_SHOWN_APART = {"sender", "name", "queue"}


def place(receiver: AsyncReceiver[..., Any]) -> str:
    """``file:line`` of its handler, from the current directory if it is below that; "" for a handler without code."""
    code = getattr(inspect.unwrap(receiver.handler), "__code__", None)
    if code is None:
        return ""
    file = Path(code.co_filename)
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file}:{code.co_firstlineno}"


def options(receiver: AsyncReceiver[..., Any]) -> list[str]:
    """``name=value`` of each option that is not at its default, but for sender, name and queue."""
    default = Options()
    values = {field.name: getattr(receiver.options, field.name) for field in fields(Options)}
    special = [
        f"{name}={_text(value)}"
        for name, value in values.items()
        if name not in _SHOWN_APART and value != getattr(default, name)
    ]
    return special if receiver.batch_size is None else [f"size={receiver.batch_size}", *special]


def sender(value: Any) -> str:
    """``shop.Order`` for a model, its own name for anything else, "" for any sender."""
    if value is None or isinstance(value, str):
        return value or ""
    meta = getattr(value, "_meta", None)
    return str(meta.label if meta else getattr(value, "__qualname__", value))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    if isinstance(value, Condition) or not hasattr(value, "__qualname__"):
        return repr(value)
    return str(value.__qualname__)

"""Lossless JSON for everything an event may hold: the event's text, and what is in it.

What JSON has travels as itself; anything else as ``{"$": tag, "v": value}``. Text is ASCII throughout, because
a database's text column or jsonb refuses or changes what JSON itself allows (NUL, lone surrogates, NaN, 1e16).
Nothing is imported because a text names it: classes are looked up among the modules that are loaded.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from .codec_types import Default, decode, encode, typed
from .event import Event
from .exceptions import CaptureError, DecodeError, NewerVersion

VERSION = 1
# Made once, as json.dumps makes one for each call; encode has built a tree, so there is no circle to look for.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)


def dumps(value: Any, default: Default) -> str:
    """``value`` as ASCII text; ``default`` replaces what the codec does not know by something that it does.

    Raises CaptureError (from ``default``, as a rule) for what cannot be carried.
    """
    return _JSON.encode(encode(value, default))


def loads(text: str) -> Any:
    """What ``dumps`` was given. Raises DecodeError for anything else."""
    with _damage():
        return decode(json.loads(text))


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        # An Enum's own _missing_, a time zone's file: anything may be raised, and none of it may end the worker.
        raise DecodeError(f"This is not an event's text: {type(error).__name__}: {error}") from error


def dump_event(event: Event, default: Default) -> str:
    """``event`` as text. Raises CaptureError, which names the argument."""
    arguments = {}
    for name, value in event.arguments.items():
        try:
            arguments[name] = encode(value, default)
        except (CaptureError, RecursionError) as error:
            raise CaptureError(
                f"Argument {name!r} of {event.signal} cannot be carried: {_reason(error)} "
                f"Leave it out with omit=[{name!r}], or send something that can."
            ) from error
    try:
        sender = encode(event.sender, default)
    except (CaptureError, RecursionError) as error:
        raise CaptureError(
            f"The sender of {event.signal} cannot be carried: {_reason(error)} "
            "Send with a class as the sender, as in signal.send(sender=type(self))."
        ) from error
    envelope: dict[str, Any] = {
        "v": VERSION,
        "id": str(event.id),
        "signal": event.signal,
        "sender": sender,
        "arguments": arguments,
        "parent": event.parent and str(event.parent),
        "chain": event.chain,
    }
    for name in ("changes", "context"):
        if value := getattr(event, name):
            envelope[name] = encode(dict(value), default)
    return _JSON.encode(envelope)


def _reason(error: BaseException) -> str:
    return "it is nested too deeply, or contains itself." if isinstance(error, RecursionError) else str(error)


def load_event(text: str) -> Event:
    """What ``dump_event`` was given, with rows as References. Raises DecodeError, NewerVersion."""
    with _damage():
        envelope = json.loads(text)
        if envelope["v"] > VERSION:
            raise NewerVersion(
                f"The event has version {envelope['v']}, this signalq reads up to {VERSION}: update the worker."
            )
        return Event(
            id=uuid.UUID(envelope["id"]),
            signal=typed(str, envelope["signal"]),
            sender=decode(envelope["sender"]),
            arguments={name: decode(value) for name, value in envelope["arguments"].items()},
            parent=None if envelope["parent"] is None else uuid.UUID(envelope["parent"]),
            chain=tuple(typed(str, name) for name in typed(list, envelope["chain"])),
            changes=typed(dict, decode(envelope.get("changes", {}))),
            context=typed(dict, decode(envelope.get("context", {}))),
        )


def transform(value: Any, function: Callable[[Any], Any]) -> Any:
    """``value`` with ``function`` applied to everything that is no container, however deep."""
    kind = type(value)
    if kind is dict:
        return {transform(key, function): transform(item, function) for key, item in value.items()}
    if kind in (list, tuple, set, frozenset):
        return kind(transform(item, function) for item in value)
    return function(value)

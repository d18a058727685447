"""Lossless JSON for everything an event may hold: the event's text, and what is in it.

What JSON has travels as itself; anything else as ``{"$": tag, "v": value}``. Text is ASCII throughout, because
a database's text column or jsonb refuses or changes what JSON itself allows (NUL, lone surrogates, NaN, 1e16).
Nothing is imported because a text names it: classes are looked up among the modules that are loaded. Whatever a
text holds, reading it takes bounded time and memory, and raises DecodeError or nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from .codec_decoders import decode, shown, typed
from .codec_types import BIG, ENCODERS, TAG, Default, encode, family
from .event import Event, Reference
from .exceptions import CaptureError, DecodeError, NewerVersion
from .texts import told

VERSION = 1
MAX_TEXT = 16 << 20
"""Characters of the longest text that is written or read, whatever MAX_PAYLOAD is: read, each may take 30 bytes."""

MAX_NESTING = 200
"""Brackets within brackets of the deepest text that is written: the worker's stack may be deeper than the sender's."""

# Made once, as json.dumps makes one for each call; encode has built a tree, so there is no circle to look for.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
_string_text = json.encoder.encode_basestring_ascii


INTERRUPTIONS: tuple[type[Exception], ...] = (MemoryError,)
"""What has nothing to do with the text that is read, and may be raised at any moment; tasks.py adds Celery's own."""


def _constant(name: str) -> NoReturn:
    raise DecodeError(f"{name} is not JSON.")


_READER = json.JSONDecoder(parse_constant=_constant)


def dumps(value: Any, default: Default) -> str:
    """``value`` as ASCII text; ``default`` replaces what the codec does not know by something that it does.

    Raises CaptureError (from ``default``, as a rule) for what cannot be carried.
    """
    try:
        return _bounded(_JSON.encode(encode(value, default)))
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(_reason(error)) from error


def loads(text: str) -> Any:
    """What ``dumps`` was given. Raises DecodeError for anything else."""
    with _damage():
        return decode(_parsed(text))


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise CaptureError(f"As text it has {len(text):,} characters; {MAX_TEXT:,} is the most, for any MAX_PAYLOAD.")
    if text.count("[") + text.count("{") > MAX_NESTING and _nesting(text) > MAX_NESTING:
        raise CaptureError(_TOO_DEEP)
    return text


_TOO_DEEP = "it is nested too deeply, or contains itself."
_NOT_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[^][{}"]+')


def _nesting(text: str) -> int:
    return max(itertools.accumulate(1 if bracket in "[{" else -1 for bracket in _NOT_BRACKETS.sub("", text)))


def _parsed(text: str) -> Any:
    if len(typed(str, text)) > MAX_TEXT:
        raise DecodeError(f"An event's text has {MAX_TEXT:,} characters at the most; this has {len(text):,}.")
    return _READER.decode(text)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, (DecodeError, *INTERRUPTIONS)):
            raise
        # An Enum's own _missing_, a time zone's file: anything may be raised, and none of it may end the worker.
        # Its own text is left out: it may quote a value, and what a dead letter died of is logged.
        raise DecodeError(f"This is not an event's text: {type(error).__name__}.") from None


def dump_event(event: Event, default: Default) -> str:
    """``event`` as text. Raises CaptureError, which names the argument."""
    return join(
        str(event.id),
        head(event.signal, event.sender, default),
        event.signal,
        event.arguments,
        str(event.parent) if event.parent else None,
        event.chain,
        {"changes": event.changes, "context": event.context},
        default,
    )


def head(signal: str, sender: Any, default: Default) -> str:
    """The part of an event's text that all events of one signal and sender share. Raises CaptureError."""
    try:
        text = _text(sender, default)
    except Exception as error:
        raise CaptureError(
            f"The sender of {signal} cannot be carried: {_reason(error)} "
            "Send with a class as the sender, as in signal.send(sender=type(self))."
        ) from error
    return f'"signal":{_string_text(signal)},"sender":{text}'


def join(
    event_id: str,
    head: str,
    signal: str,
    arguments: Mapping[str, Any],
    parent: str | None,
    chain: Sequence[str],
    rest: Mapping[str, Mapping[str, Any]],
    default: Default,
) -> str:
    """An event's text from its parts; ``rest`` are those that it may lack. Raises CaptureError."""
    texts = []
    for name, value in arguments.items():
        try:
            texts.append(f"{_string_text(name)}:{_text(value, default)}")
        except Exception as error:
            raise CaptureError(
                f"Argument {name!r} of {signal} cannot be carried: {_reason(error)} "
                f"Leave it out with omit=[{name!r}], or send something that can."
            ) from error
    text = f'{{"v":{VERSION},"id":"{event_id}",{head},"arguments":{{{",".join(texts)}}}'
    text += f',"parent":"{parent}"' if parent else ',"parent":null'
    text += f',"chain":{_JSON.encode(chain)}' if chain else ',"chain":[]'
    for name, values in rest.items():
        if values:
            try:
                text += f',"{name}":{_text(dict(values), default)}'
            except Exception as error:
                raise CaptureError(f"The {name} of {signal} cannot be carried: {_reason(error)}") from error
    return _bounded(text + "}")


def _text(value: Any, default: Default) -> str:
    """What ``_JSON`` makes of ``encode(value)``, without a tree in between for what most arguments are."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    kind = type(value)
    if kind is int and -BIG < value < BIG:
        return str(value)
    if kind is str and value.isascii():
        return _string_text(value)
    if kind is Reference:
        pk = _text(value.pk, default)
        return f'{{"{TAG}":"row","v":[{_string_text(value.model)},{pk},{_string_text(value.using)}]}}'
    encoder = ENCODERS.get(kind) or family(value)
    return _JSON.encode(encoder(value, default)) if encoder else _text(default(value), default)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    # A lazy text, a property of the user's: anything may be raised while a value is looked at.
    return str(error) if isinstance(error, CaptureError) else f"{told(error)}."


def load_event(text: str) -> Event:
    """What ``dump_event`` was given, with rows as References. Raises DecodeError, NewerVersion."""
    with _damage():
        envelope = _parsed(text)
        version = typed(int, envelope["v"])
        if version > VERSION:
            raise NewerVersion(
                f"The event has version {shown(version)}, this signalq reads up to {VERSION}: update the worker."
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


_PLAIN = frozenset({str, int, float, bool, type(None)})


def transform(value: Any, function: Callable[[Any], Any]) -> Any:
    """``value`` with ``function`` applied to everything that is no container, however deep; plain values stay.

    Raises DecodeError where it is too deep for this process's stack.
    """
    if type(value) in _PLAIN:
        return value
    try:
        return _transformed(value, function)
    except RecursionError as error:
        raise DecodeError("It is nested too deeply to be handed over here.") from error


def _transformed(value: Any, function: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if kind is dict:
        return {_transformed(key, function): _transformed(item, function) for key, item in value.items()}
    if kind in (list, tuple, set, frozenset):
        return kind([_transformed(item, function) for item in value])
    return function(value)

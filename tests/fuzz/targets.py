"""What is fuzzed: each target takes bytes, and raises only if the library broke a promise with them.

The promises: nothing is raised but signalq's own errors, and to a worker not even these; no module is imported; what
can be read goes back in, and comes out the same.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import django.core.handlers.asgi
import django.core.handlers.wsgi  # noqa: F401 - the one package of which a text may have a module imported
from celery import Celery
from django.db.models import Model
from django.db.models.signals import post_save

from signalq import async_receiver, codec, execute, signals, wire
from signalq.exceptions import DecodeError
from signalq.freeze import freeze
from signalq.receivers import registry

_MAY_LOAD = ("encodings", "tzdata", "importlib", "_strptime", "unicodedata", "stringprep")
"""Modules that Python itself loads at the first use of something: a codec, the data of a time zone."""


@contextlib.contextmanager
def nothing_imported() -> Iterator[None]:
    before = set(sys.modules)
    yield
    if len(sys.modules) != len(before):
        imported = {name for name in sys.modules.keys() - before if not name.startswith(_MAY_LOAD)}
        assert not imported, imported


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass" if data.isascii() else "replace")


def text(data: bytes) -> None:
    """Any text at all, as `codec.loads` gets it."""
    with nothing_imported():
        try:
            value = codec.loads(_text(data))
        except DecodeError:
            return
        again = codec.dumps(value, _a_class)
        assert codec.dumps(codec.loads(again), _a_class) == again


def _a_class(value: Any) -> Any:
    """A text may name any class that is loaded, also a model's, which travels in another way."""
    if isinstance(value, type) and issubclass(value, Model):
        return freeze(value)
    raise AssertionError(f"{value!r} came out of a text and does not go back in")


def event(data: bytes) -> None:
    """Any text at all, in the place of a delivery's payload."""
    with nothing_imported():
        try:
            found = codec.load_event(_text(data))
            codec.transform(found.arguments, lambda value: value)
            again = codec.dump_event(found, _a_class)
        except DecodeError:
            return
        assert codec.dump_event(codec.load_event(again), _a_class) == again


def message(data: bytes) -> None:
    """Any JSON, or text, as the body of a message: [arguments, keywords] to a task of ours."""
    try:
        body = json.loads(_text(data))
    except (ValueError, RecursionError):
        body = [[_text(data)], {}]
    arguments, keywords = body if isinstance(body, list) and len(body) == 2 else ([body], {})
    for name in ("fuzz.durable", "fuzz.transient"):
        deliver(name, arguments, keywords)
    deliver("fuzz.transient", [wire.signer().sign(f"fuzz.transient\n0\n{_printable(_text(data))}")], {})


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def deliver(name: str, arguments: Any, keywords: Any) -> None:
    """As Celery calls the task: what is not run is counted, and nothing is raised."""
    arguments = arguments if isinstance(arguments, list) else [arguments]
    keywords = {str(key): value for key, value in keywords.items()} if isinstance(keywords, dict) else {}
    task, before = _app().tasks[name], signals.counts["refused"]
    RAN.clear()
    with nothing_imported(), mock.patch.object(execute, "run", _run), mock.patch.object(execute, "call", _call):
        task.run(*arguments, **keywords)  # as a worker does, which would raise before ours with __call__(self=...)
    noted = signals.counts["refused"] - before + len(RAN)
    assert noted == 1 or (noted == 0 and arguments[1:] == [[]]), noted


RAN: list[Any] = []
_apps: list[Celery] = []


def _app() -> Celery:
    """An app, with one receiver of each kind: made at the first message, and again where a test removed them."""
    if not _apps:
        _apps.append(Celery("fuzz", broker="memory://", set_as_current=False))
    for name, durable in (("fuzz.durable", True), ("fuzz.transient", False)):
        if name not in registry:
            async_receiver(post_save, sender="testapp.Author", name=name, durable=durable)(lambda **kwargs: None)
            _apps[0].tasks[name].run()  # Celery loads what it needs when a task is first made
    return _apps[0]


def _run(receiver: Any, using: str, ids: list[int]) -> None:
    assert using == "default" or using in _aliases(), using
    assert ids and all(type(pk) is int and 0 < pk < 2**63 for pk in ids)
    RAN.append(ids)


def _aliases() -> list[str]:
    from django.conf import settings

    return list(settings.DATABASES)


def _call(receiver: Any, event: Any, *rest: Any) -> None:
    RAN.append(event)


TARGETS: dict[str, Callable[[bytes], None]] = {"text": text, "event": event, "message": message}

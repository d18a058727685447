"""What is carried of a request: a snapshot of an HttpRequest, and the plain part of an environ or a scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty

from .event import RequestSnapshot

_META = ("REMOTE_ADDR", "HTTP_USER_AGENT")


def request_of(value: Any) -> HttpRequest | None:
    """The request that ``value`` is, or that it wraps as REST frameworks do, which pass it on to ``authenticate``."""
    inner = value if isinstance(value, HttpRequest) else getattr(value, "__dict__", {}).get("_request")
    return inner if isinstance(inner, HttpRequest) else None


def snapshot(request: HttpRequest) -> RequestSnapshot:
    """``request`` with its user as it is known by now: looking it up would be a query in somebody's request."""
    # The text itself: a subclass of str, such as a SafeString, would be nothing that a handler asked for.
    meta = {name: str(request.META[name]) for name in _META if name in request.META}
    return RequestSnapshot(request.method, str(request.path), _known_user(request), meta)


def _known_user(request: HttpRequest) -> Any:
    user = vars(request).get("user")
    if isinstance(user, LazyObject):
        user = user._wrapped if vars(user).get("_wrapped", empty) is not empty else None
    if isinstance(user, Model):
        return None if user.pk is None or user._state.adding else user
    return user if is_anonymous_user(user) else None


def is_anonymous_user(value: Any) -> bool:
    """By its name: without ``django.contrib.auth`` its module cannot be imported."""
    kind = value.__class__  # what a lazy object stands for, as request.user is one
    return (kind.__module__, kind.__qualname__) == ("django.contrib.auth.models", "AnonymousUser")


# Of an environ, what PEP 3333 names; servers add streams, callables, and some of them their whole environment.
_ENVIRON = {
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "REMOTE_ADDR",
    "REMOTE_HOST",
    "REMOTE_PORT",
    "wsgi.url_scheme",
    "wsgi.version",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
}
# Of a scope, what the ASGI specification names; "extensions" and "state" are the server's own.
_SCOPE = {
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
}
_CREDENTIALS = {"COOKIE", "AUTHORIZATION", "PROXY_AUTHORIZATION"}
"""Headers that would let whoever reads the event act as the user."""


def plain_environ(environ: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a WSGI ``environ`` that are carried: PEP 3333's and the headers, without credentials."""
    return {
        key: value
        for key, value in environ.items()
        if key in _ENVIRON or (key.startswith("HTTP_") and key[len("HTTP_") :] not in _CREDENTIALS)
    }


def plain_scope(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an ASGI ``scope`` that are carried: the specification's, without credentials."""
    plain = {key: value for key, value in scope.items() if key in _SCOPE}
    if "headers" in plain:
        plain["headers"] = [(name, value) for name, value in plain["headers"] if not _is_credential(name)]
    return plain


def _is_credential(header: bytes) -> bool:
    return header.decode("latin-1").upper().replace("-", "_") in _CREDENTIALS

"""What travels with an event, and is active in its handler."""

from __future__ import annotations

import contextlib
import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from django.utils.functional import SimpleLazyObject
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from signalq import (
    RegistrationError,
    acurrent_user,
    async_receiver,
    context,
    current_delivery,
    current_trace,
    current_user,
    register_context,
    unregister_context,
)
from signalq.codec import load_event
from signalq.context import register
from signalq.event import Reference
from signalq.exceptions import CaptureError, ConditionError, ContextError
from signalq.middleware import ContextMiddleware
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Tag

pytestmark = pytest.mark.usefixtures("temporary_receivers")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
tenant: ContextVar[str | None] = ContextVar("tenant", default=None)
LANGUAGE = context._sources["language"]


@pytest.fixture
def seen(alias: str) -> list[Any]:
    """What a handler sees, which saves a Tag in turn."""
    seen: list[Any] = []

    def look(**kwargs: Any) -> None:
        seen.append({
            "language": translation.get_language(),
            "timezone": timezone.get_current_timezone_name(),
            "user": current_user(),
            "trace": current_trace(),
            "tenant": tenant.get(),
        })  # fmt: skip

    def cause(**kwargs: Any) -> None:
        look()
        Tag.objects.using(alias).create(name="caused")

    async_receiver(post_save, sender=Author, name="first")(cause)
    async_receiver(post_save, sender=Tag, name="second")(look)
    return seen


@pytest.fixture
def with_tenant() -> Iterator[None]:
    register_context("tenant", tenant.get, as_tenant)
    yield
    unregister_context("tenant")


@contextlib.contextmanager
def as_tenant(name: str | None) -> Iterator[None]:
    token = tenant.set(name)
    try:
        yield
    finally:
        tenant.reset(token)


def save(alias: str) -> None:
    Author.objects.using(alias).create(name="Ada")


def carried(alias: str) -> list[dict[str, Any]]:
    return [dict(load_event(text).context) for text in outbox(alias).values_list("payload", flat=True)]


def request(alias: str, user: Any = None, **headers: str) -> HttpResponse:
    """A view that saves, under the middleware."""

    def view(request: HttpRequest) -> HttpResponse:
        save(alias)
        return HttpResponse("ok")

    made = RequestFactory(headers=headers).get("/")
    made.user = user or AnonymousUser()
    return ContextMiddleware(view)(made)  # type: ignore[return-value]


def test_the_default_is_not_carried(alias: str, seen: list[Any]) -> None:
    save(alias)
    request(alias)
    assert carried(alias) == [{}, {}]
    work(alias)
    plain = {"language": "en-us", "timezone": "UTC", "user": None, "trace": None, "tenant": None}
    assert seen == [plain, plain]


@pytest.mark.parametrize("name", ["Europe/Berlin", 5400.0])
def test_everything_reaches_the_handler_and_what_that_causes(
    alias: str, seen: list[Any], with_tenant: None, name: Any
) -> None:
    user = User.objects.db_manager(alias).create_user("ada")
    zone = zoneinfo.ZoneInfo(name) if isinstance(name, str) else dt.timezone(dt.timedelta(seconds=name))
    with translation.override("de"), timezone.override(zone), as_tenant("acme"):
        request(alias, user, traceparent=PARENT, tracestate="a=b")
    trace = {"traceparent": PARENT, "tracestate": "a=b"}
    reference = Reference("auth.user", user.pk, alias)
    expected = {"user": reference, "language": "de", "timezone": name, "trace": trace, "tenant": "acme"}
    assert carried(alias) == [expected]
    work(alias)
    work(alias)
    assert states(alias) == [("first", "done", 1), ("second", "done", 1)]
    shown = name if isinstance(name, str) else "UTC+01:30"
    assert seen == [{"language": "de", "timezone": shown, "user": user, "trace": trace, "tenant": "acme"}] * 2
    assert carried(alias) == [expected, expected]
    assert (translation.get_language(), timezone.get_current_timezone_name()) == ("en-us", "UTC")
    assert (tenant.get(), current_user(), current_trace()) == (None, None, None)


def test_a_handler_may_set_it_anew(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="cause")
    def cause(**kwargs: Any) -> None:
        with translation.override("en-us"), timezone.override("UTC"):
            Tag.objects.using(alias).create(name="caused")

    async_receiver(post_save, sender=Tag, name="effect")(lambda **kwargs: None)
    with translation.override("de"), timezone.override("Asia/Tokyo"):
        save(alias)
    work(alias)
    first, second = carried(alias)
    assert first == {"language": "de", "timezone": "Asia/Tokyo"}
    assert second == {"language": "en-us", "timezone": "UTC"}


def test_what_no_source_here_knows_is_handed_on(alias: str, seen: list[Any], with_tenant: None) -> None:
    with as_tenant("acme"):
        save(alias)
    unregister_context("tenant")
    work(alias)
    assert carried(alias) == [{"tenant": "acme"}] * 2


def test_a_lazy_user_is_asked_once_and_only_for_an_event(alias: str, seen: list[Any]) -> None:
    user = User.objects.db_manager(alias).create_user("ada")
    lazy = SimpleLazyObject(lambda: User.objects.using(alias).get(pk=user.pk))
    made = RequestFactory().get("/")
    made.user = lazy  # type: ignore[assignment]
    counts = []

    def view(request: HttpRequest) -> HttpResponse:
        for work_ in (lambda: Author.objects.using(alias).count(), lambda: save(alias), lambda: save(alias)):
            with CaptureQueriesContext(connections[alias]) as queries:
                work_()
            counts.append(sum("auth_user" in query["sql"] for query in queries.captured_queries))
        return HttpResponse()

    ContextMiddleware(view)(made)
    assert counts == [0, 1, 0]
    assert [context["user"].pk for context in carried(alias)] == [user.pk] * 2


def test_a_handler_that_does_not_ask_loads_no_user(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="asks_not")
    def asks_not(**kwargs: Any) -> None: ...

    request(alias, User.objects.db_manager(alias).create_user("ada"))
    with CaptureQueriesContext(connections[alias]) as queries:
        work(alias)
    assert not [query for query in queries.captured_queries if "auth_user" in query["sql"]]


def test_a_user_that_is_gone_is_none(alias: str, seen: list[Any]) -> None:
    user = User.objects.db_manager(alias).create_user("ada")
    request(alias, user)
    user.delete()
    work(alias)
    assert seen[0]["user"] is None


def test_a_coroutine_handler_has_it_too(alias: str, with_tenant: None) -> None:
    seen = []

    @async_receiver(post_save, sender=Author, name="coroutine", atomic=False)
    async def coroutine(instance: Author, **kwargs: Any) -> None:
        user = await acurrent_user()
        seen.append((user.username, translation.get_language(), tenant.get(), current_delivery().attempt))

    user = User.objects.db_manager(alias).create_user("ada")
    with translation.override("de"), as_tenant("acme"):
        request(alias, user)
    work(alias)
    assert seen == [("ada", "de", "acme", 1)]


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), "ff" + PARENT[2:], PARENT * 9],
)
def test_a_wrong_trace_header_is_ignored(alias: str, seen: list[Any], header: str) -> None:
    request(alias, traceparent=header)
    assert carried(alias) == [{}]


def test_opentelemetry_is_used_where_it_is(alias: str, seen: list[Any]) -> None:
    tracer = TracerProvider().get_tracer("web")
    with tracer.start_as_current_span("GET /") as span:
        save(alias)
    context = span.get_span_context()
    work(alias)
    (look,) = seen
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-"
    assert look["trace"]["traceparent"].startswith(parent)
    assert not get_current_span().get_span_context().is_valid


def test_the_span_that_is_active_is_the_nearer_parent(alias: str, seen: list[Any]) -> None:
    """Whoever traces the worker has made it of what travels with the event."""
    tracer = TracerProvider().get_tracer("both")
    with tracer.start_as_current_span("GET /"):
        save(alias)
        with tracer.start_as_current_span("process") as span:
            work(alias)
    assert f"{span.get_span_context().span_id:016x}" in seen[0]["trace"]["traceparent"]


def test_a_source_that_raises_is_named(alias: str, seen: list[Any]) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("oh")

    register_context("broken", broken, as_tenant)
    try:
        with pytest.raises(ContextError, match=r"'broken' cannot be captured: .*broken.* raised ZeroDivisionError: oh"):
            save(alias)
        unregister_context("broken")
        register_context("broken", lambda: 5, broken)
        save(alias)
        work(alias)
    finally:
        unregister_context("broken")
    error = outbox(alias).get().errors[-1]
    assert "'broken' cannot be made active with its int: <function" in error["message"]
    assert error["message"].endswith("raised ZeroDivisionError.")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("where", ["capture", "when", "key"])
def test_an_error_that_cannot_be_told_is_named_all_the_same(alias: str, where: str) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise Unspeakable

    options = {"when": {"when": broken}, "key": {"key": broken, "ordered": True}}.get(where, {})
    async_receiver(post_save, sender=Author, name="unspeakable", **options)(lambda **kwargs: None)  # type: ignore[arg-type]
    if where == "capture":
        register_context("broken", broken, as_tenant)
    try:
        with pytest.raises((ContextError, ConditionError, CaptureError), match=r"raised .*Unspeakable"):
            save(alias)
    finally:
        unregister_context("broken")


def test_registration_is_checked() -> None:
    register_context("mine", tenant.get, as_tenant)
    try:
        register_context("mine", tenant.get, as_tenant)
        with pytest.raises(RegistrationError, match="'mine' is registered already"):
            register_context("mine", str, as_tenant)
        with pytest.raises(TypeError, match="two functions"):
            register_context("other", tenant.get, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a name first"):
            register_context("", tenant.get, as_tenant)
    finally:
        unregister_context("mine")


def refuse() -> Any:
    raise AssertionError("a value of somebody's context variable was looked at")


def test_what_changes_within_a_transaction_is_seen_at_once(alias: str, with_tenant: None, settings: Any) -> None:
    """What did not change is not asked for again."""
    async_receiver(post_save, sender=Author, name="any")(lambda **kwargs: None)
    lazy: ContextVar[Any] = ContextVar("lazy")
    with transaction.atomic(alias):
        save(alias)
        translation.activate("de")
        save(alias)
        save(alias)
        with timezone.override("Asia/Tokyo"), as_tenant("acme"):
            save(alias)
        for _ in range(2):
            token = lazy.set(SimpleLazyObject(refuse))
            save(alias)
            lazy.reset(token)
        request(alias, traceparent=PARENT)
        settings.LANGUAGE_CODE = "de"  # which deactivates what was active
        save(alias)
        unregister_context("language")
        try:
            translation.activate("fr")
            save(alias)
        finally:
            register("language", LANGUAGE)
        save(alias)
        translation.deactivate()
    german = {"language": "de"}
    assert carried(alias) == [
        {},
        german,
        german,
        {**german, "timezone": "Asia/Tokyo", "tenant": "acme"},
        german,
        german,
        {**german, "trace": {"traceparent": PARENT}},
        {},
        {},
        {"language": "fr"},
    ]


def test_no_query_more(alias: str, seen: list[Any], with_tenant: None) -> None:
    def queries(work_: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connections[alias]) as found, transaction.atomic(alias):
            work_()
        return len(found)

    user = User.objects.db_manager(alias).create_user("ada")
    plain = queries(lambda: save(alias))

    def surrounded() -> None:
        with translation.override("de"), timezone.override("Asia/Tokyo"), as_tenant("acme"):
            request(alias, user, traceparent=PARENT)

    assert queries(surrounded) == plain
    assert len(carried(alias)[-1]) == 5

"""The table of docs/reference.md, cell by cell: real signals, to a synchronous and to an asynchronous receiver."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import django
import django.contrib.auth.signals
import pytest
from asgiref.sync import async_to_sync
from django.apps import AppConfig, apps
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import AnonymousUser, User
from django.core import signals as core_signals
from django.core.management import call_command
from django.core.management.base import OutputWrapper
from django.db.migrations import Migration
from django.db.models import Model, QuerySet, signals as model_signals
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject

from signalq import AsyncReceiver, RegistrationError, RequestSnapshot, async_receiver, codec, execute, publish
from signalq.context import CurrentDelivery
from signalq.event import Counterpart
from signalq.exceptions import DecodeError
from signalq.load import Loader
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Book, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers")

visited = Signal()

DOCUMENT = Path(__file__).parent.parent / "docs" / "reference.md"
SIGNALS: dict[str, Signal] = {
    name: getattr(module, name)
    for module, names in [
        (model_signals, "pre_save post_save pre_delete post_delete m2m_changed pre_migrate post_migrate"),
        (core_signals, "request_started request_finished got_request_exception"),
        (django.contrib.auth.signals, "user_logged_in user_logged_out user_login_failed"),
    ]
    for name in names.split()
}
NEWER = {("m2m_changed", "raw"): (6, 1)}
"""What only newer versions of Django send."""


def table() -> dict[str, dict[str, str]]:
    """What the document says that arrives: by signal and argument."""
    cells: dict[str, dict[str, str]] = {}
    for signal, argument, _, arrives in re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| (.+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE
    ):
        cells.setdefault(signal, {})[argument] = arrives
    return cells


# Requests


def sign_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username="ada", password=request.POST["password"])
    if user is not None:
        login(request, user)
    return HttpResponse("ok")


def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("ok")


def fail(request: HttpRequest) -> HttpResponse:
    raise ValueError(str(request.user))


def fail_without_looking(request: HttpRequest) -> HttpResponse:
    raise ValueError


urlpatterns = [
    path("", lambda request: HttpResponse("ok")),
    path("in", sign_in),
    path("out", sign_out),
    path("fail", fail),
    path("fail_without_looking", fail_without_looking),
]


@pytest.fixture
def client(every_alias: list[str]) -> Iterator[Client]:
    User.objects.create_user("ada", password="right")
    with override_settings(ROOT_URLCONF=__name__):
        yield Client(raise_request_exception=False, headers={"user-agent": "Browser \u00fc", "authorization": "secret"})


# What is sent


class Sent(NamedTuple):
    """One sending: what the synchronous and the asynchronous receiver got."""

    live: dict[str, Any]
    carried: dict[str, Any]


def as_sent(value: Any) -> Any:
    """The sender goes on working with it: a deletion, for one, takes the primary key away."""
    return copy.copy(value) if isinstance(value, Model) else value


def observe(
    signal: Signal, send: Callable[[], object], run: Callable[[AsyncReceiver[..., Any]], object], **options: Any
) -> list[Sent]:
    """Send for real; what each of the two receivers got, sending by sending."""
    live: list[dict[str, Any]] = []
    carried: list[dict[str, Any]] = []

    def synchronous(**kwargs: Any) -> None:
        live.append({name: as_sent(value) for name, value in kwargs.items()})

    def asynchronous(**kwargs: Any) -> None:
        carried.append(kwargs)

    receiver = async_receiver(signal, name="asynchronous", **options)(asynchronous)
    signal.connect(synchronous, sender=options.get("sender"))
    try:
        send()
    finally:
        signal.disconnect(synchronous, sender=options.get("sender"))
        receiver.disconnect()
    run(receiver)
    assert len(live) == len(carried) > 0
    return [Sent(*pair) for pair in zip(live, carried, strict=True)]


def concrete(instance: Model) -> dict[str, Any]:
    return {field.attname: vars(instance).get(field.attname, "deferred") for field in instance._meta.concrete_fields}


def same(live: Any, carried: Any) -> None:
    assert type(carried) is type(live)
    assert carried == live


def row(live: Any, carried: Any) -> None:
    if live is None:
        assert carried is None
        return
    assert carried is not live
    assert type(carried)._base_manager.model is live._meta.model
    assert carried._state.db == live._state.db
    assert concrete(carried) == concrete(type(carried)._base_manager.using(live._state.db).get(pk=live.pk))


def as_it_was(live: Any, carried: Any) -> None:
    assert carried is not live
    assert type(carried) is type(live)
    assert concrete(carried) == concrete(live)
    assert carried._state.adding == live._state.adding


def origin(live: Any, carried: Any) -> None:
    if not isinstance(live, QuerySet):
        as_it_was(live, carried)
        return
    assert isinstance(carried, QuerySet)
    assert carried.model is live.model
    assert list(carried) == []


def own_apps(live: Any, carried: Any) -> None:
    assert live.get_app_configs
    assert carried is apps


def migrations(live: Any, carried: Any) -> None:
    assert carried == live
    assert live
    assert all(type(migration) is Migration and migration.operations == [] for migration, _ in carried)


def output(live: Any, carried: Any) -> None:
    assert isinstance(live, OutputWrapper)
    carried.write("")
    assert carried.isatty() in (True, False)


def request_snapshot(live: Any, carried: Any) -> None:
    if live is None:
        assert carried is None
        return
    assert isinstance(carried, RequestSnapshot)
    assert (carried.method, carried.path) == (live.method, live.path)
    for name in ("REMOTE_ADDR", "HTTP_USER_AGENT"):
        assert carried.META.get(name) == live.META.get(name)
    assert carried.headers.get("user-agent") == live.headers.get("user-agent")


def plain(live: Any, carried: Any) -> None:
    assert {"wsgi.input", "wsgi.errors"} <= set(live) or "type" in live
    assert set(carried) < set(live) or "type" in live
    for name, value in carried.items():
        same(value if name == "headers" else live[name], value)
    assert "secret" in str(live)
    assert "secret" not in str(carried)
    assert "Browser" in str(carried)


RULES: dict[str, Callable[[Any, Any], None]] = {
    "the same": same,
    "the row, loaded afresh": row,
    "the instance as it was": as_it_was,
    "the instance as it was, or an empty QuerySet of its model": origin,
    "the worker's own `django.apps.apps`": own_apps,
    "the same migrations, without their operations": migrations,
    "the worker's own output": output,
    "a `RequestSnapshot`": request_snapshot,
    "its plain entries, without credentials": plain,
}


def prove(name: str, sent: list[Sent]) -> None:
    """Every argument that was sent is in the table, and every cell of the table is true."""
    cells = table()[name]
    expected = {argument for argument in cells if NEWER.get((name, argument), (0,)) <= django.VERSION}
    assert {argument for one in sent for argument in one.live} - {"signal"} == expected
    for one in sent:
        assert set(one.carried) == set(one.live)
        assert one.carried["signal"] is one.live["signal"] is SIGNALS[name]
        for argument in set(one.live) - {"signal"}:
            RULES[cells[argument]](one.live[argument], one.carried[argument])


def test_the_table_is_of_these_signals_and_says_what_is_tested() -> None:
    assert set(table()) == set(SIGNALS) == {*OF_MODELS, *OF_REQUESTS, "pre_migrate", "post_migrate"}
    assert {cell for cells in table().values() for cell in cells.values()} == set(RULES)


# Models


def saves(alias: str) -> None:
    author = Author(name="Ada", email="ada@example.org")
    author.save(using=alias)
    author.name = "Ada L."
    author.save(using=alias, update_fields=["name"])
    Author.objects.using(alias).filter(pk=author.pk).update(counter=5)


def deletions(alias: str) -> None:
    authors = Author.objects.using(alias)
    authors.create(name="Ada").delete()
    authors.create(name="Eve")
    authors.filter(name="Eve").delete()


def relations(alias: str) -> None:
    book = Book.objects.using(alias).create(title="Notes")
    tag = Tag.objects.using(alias).create(name="a")
    book.tags.add(tag)
    tag.books.remove(book)
    book.tags.clear()


OF_MODELS: dict[str, tuple[type[Model], Callable[[str], None]]] = {
    "pre_save": (Author, saves),
    "post_save": (Author, saves),
    "pre_delete": (Author, deletions),
    "post_delete": (Author, deletions),
    "m2m_changed": (Book.tags.through, relations),
}


@pytest.mark.parametrize("name", OF_MODELS)
def test_signals_of_models(name: str, alias: str) -> None:
    sender, send = OF_MODELS[name]
    sent = observe(SIGNALS[name], lambda: send(alias), lambda receiver: work(alias), sender=sender)
    assert {one.carried["using"] for one in sent} == {alias}
    prove(name, sent)
    if name == "m2m_changed":
        assert len({(one.carried["action"], one.carried["reverse"]) for one in sent}) == 6


# Requests and users


def wrong_password(client: Client) -> None:
    client.post("/in", {"password": "wrong"})
    authenticate(username="ada", password="wrong")


def in_and_out(client: Client) -> None:
    client.post("/in", {"password": "right"})
    client.get("/out")
    client.get("/out")


def both_protocols(client: Client) -> None:
    client.get("/?a=1")
    headers = {"user-agent": "Browser", "authorization": "secret"}
    assert async_to_sync(AsyncClient().get)("/", headers=headers).status_code == 200


OF_REQUESTS: dict[str, Callable[[Client], object]] = {
    "request_started": both_protocols,
    # The asynchronous test client closes its responses in a thread, and with a connection, of its own.
    "request_finished": lambda client: client.get("/"),
    "got_request_exception": lambda client: client.get("/fail"),
    "user_logged_in": in_and_out,
    "user_logged_out": in_and_out,
    "user_login_failed": wrong_password,
}


def sent_by(client: Client, name: str, send: Callable[[Client], object] | None = None) -> list[Sent]:
    sender = OF_REQUESTS[name] if send is None else send
    return observe(SIGNALS[name], lambda: sender(client), lambda receiver: work("default"))


@pytest.mark.parametrize("name", OF_REQUESTS)
def test_signals_of_requests(name: str, client: Client) -> None:
    prove(name, sent_by(client, name))
    assert {state for _, state, _ in states("default")} == {"done"}


def test_the_user_of_a_request(client: Client) -> None:
    ada = User.objects.get()
    (anonymous,) = sent_by(client, "got_request_exception")
    assert type(anonymous.carried["request"].user) is AnonymousUser
    client.force_login(ada)
    (known,) = sent_by(client, "got_request_exception")
    assert known.carried["request"].user == ada
    (unknown,) = sent_by(client, "got_request_exception", lambda client: client.get("/fail_without_looking"))
    assert unknown.carried["request"].user is None
    (logged_out,) = sent_by(client, "user_logged_out", lambda client: client.get("/out"))
    assert logged_out.carried["user"] == logged_out.carried["request"].user == ada


def test_a_request_whose_user_is_gone_is_still_a_request(client: Client) -> None:
    client.force_login(User.objects.get())

    def send(client: Client) -> None:
        client.get("/fail")
        User.objects.all().delete()

    (sent,) = sent_by(client, "got_request_exception", send)
    assert sent.carried["request"].user is None


def test_what_a_request_snapshot_has_not() -> None:
    snapshot = RequestSnapshot("GET", "/", None, {})
    with pytest.raises(AttributeError, match="has no 'session', only method, path, user, META and headers"):
        snapshot.session  # noqa: B018
    assert copy.deepcopy(snapshot) == snapshot


def test_a_request_in_a_wrapper_of_a_rest_framework(every_alias: list[str]) -> None:
    class Wrapper:
        def __init__(self, request: HttpRequest) -> None:
            self._request = request

    request = HttpRequest()
    request.user = AnonymousUser()
    sent = observe(
        SIGNALS["user_login_failed"],
        lambda: SIGNALS["user_login_failed"].send(__name__, credentials={}, request=Wrapper(request)),
        lambda receiver: work("default"),
    )
    assert sent[0].carried["request"] == RequestSnapshot(None, "", sent[0].carried["request"].user, {})
    assert type(sent[0].carried["request"].user) is AnonymousUser


@pytest.mark.parametrize("lazy", [False, True])
def test_an_anonymous_user_and_an_app_in_a_signal_of_one_s_own(every_alias: list[str], lazy: bool) -> None:
    got: list[Any] = []
    async_receiver(visited, name="x")(lambda user, deep, **kwargs: got.extend([user, deep]))
    user = SimpleLazyObject(AnonymousUser) if lazy else AnonymousUser()
    visited.send(apps.get_app_config("auth"), user=user, deep=[{"app": apps.get_app_config("testapp")}])
    work("default")
    assert type(got[0]) is AnonymousUser
    assert got[1] == [{"app": apps.get_app_config("testapp")}]
    assert outbox("default").get().sender == "auth"


@pytest.mark.parametrize("name", ["app config", "unknown"])
def test_a_counterpart_that_is_missing(name: str) -> None:
    with pytest.raises(DecodeError, match=f"There is no {name} 'gone' here"):
        Loader().thaw(Counterpart(name, "gone"))


# Migrations


def run_transient(receiver: AsyncReceiver[..., Any], messages: list[Any]) -> None:
    for message in messages:
        execute.call(receiver, CurrentDelivery(codec.load_event(message.payload), receiver.name, 1), Loader())


@pytest.mark.parametrize("name", ["pre_migrate", "post_migrate"])
def test_signals_of_migrations(name: str, every_alias: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Any] = []
    monkeypatch.setattr(publish, "send", messages.extend)
    config: AppConfig = apps.get_app_config("sessions")

    def migrate() -> None:
        call_command("migrate", "sessions", "zero", verbosity=0, interactive=False, skip_checks=True)
        call_command("migrate", "sessions", verbosity=0, interactive=False, skip_checks=True)

    sent = observe(
        SIGNALS[name],
        migrate,
        lambda receiver: run_transient(receiver, messages),
        sender=config,
        durable=False,
    )
    prove(name, sent)
    assert [one.carried["plan"][0][1] for one in sent] == [True, False]
    assert sent[0].carried["app_config"] is config
    assert outbox("default").count() == 0


def test_they_are_transient_only() -> None:
    for name in ("pre_migrate", "post_migrate"):
        with pytest.raises(RegistrationError, match=f"signals.{name} needs durable=False: while migrate runs"):
            async_receiver([model_signals.post_save, SIGNALS[name]])


# Several signals, one receiver


def test_one_receiver_of_several_signals_is_told_which(alias: str) -> None:
    seen: list[Any] = []
    several = [model_signals.post_save, model_signals.post_delete]

    @async_receiver(several, sender=Author, name="both", snapshot=True)
    def both(signal: Signal, instance: Author, **kwargs: Any) -> None:
        seen.append((signal, instance.name))

    Author.objects.using(alias).create(name="Ada").delete()
    work(alias)
    assert sorted(seen, key=lambda pair: several.index(pair[0])) == [(signal, "Ada") for signal in several]

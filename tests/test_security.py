"""What docs/security.md says of those who reach the broker, the database, the admin or the site."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery
import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import Permission, User
from django.contrib.auth.signals import user_login_failed
from django.core.signals import got_request_exception, request_started
from django.core.signing import Signer, TimestampSigner
from django.db.models.signals import post_save
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from signalq import async_receiver, wire
from signalq.event import uuid7
from signalq.exceptions import CaptureError
from signalq.signals import counts, message_refused
from tests.steps import outbox, states, work
from tests.testapp.models import Author, Effect

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("temporary_receivers")

ROOT = Path(__file__).parents[1]
CANARY = "Canary-7f3a"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the time pass for what tells it by the clock."""
    now = time.time
    passed = [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + sum(passed))
    return passed.append


def receive(name: str, **options: Any) -> None:
    def handler(instance: Any = None, **kwargs: Any) -> None:
        Effect.objects.create(receiver=name, note=str(instance))

    async_receiver(post_save, sender=Author, name=name, **options)(handler)


def handled() -> list[tuple[str, str]]:
    return list(Effect.objects.order_by("pk").values_list("receiver", "note"))


def the_message(sent: list[wire.Item]) -> str:
    (item,) = sent
    assert isinstance(item, wire.Message)
    return wire.seal(item)


def refused(app: celery.Celery, task: str, *arguments: Any, **options: Any) -> str:
    """Why the message was refused; nothing if it was not."""
    before, reasons = counts["refused"], []

    def note(sender: Any, reason: str, **kwargs: Any) -> None:
        reasons.append(reason)

    message_refused.connect(note)
    try:
        app.tasks[task].apply(arguments, **options)
    finally:
        message_refused.disconnect(note)
    assert counts["refused"] == before + len(reasons)
    return "".join(reasons)


# Who can write to the broker: durable


def test_a_forged_message_wakes_only_what_is_queued_for_that_receiver(app: celery.Celery, alias: str) -> None:
    for name in ("mine", "other"):
        async_receiver(post_save, sender=Author, name=name)(lambda **kwargs: None)
    async_receiver(post_save, sender=Author, name="early", countdown=3600)(lambda **kwargs: None)
    for state in ("queued", "waiting", "running", "done", "dead", "discarded"):
        Author.objects.using(alias).create(name=state)
        last = outbox(alias, receiver="mine").last()
        assert last is not None
        outbox(alias, pk=last.pk).update(state=state)
    ids = list(outbox(alias).values_list("pk", flat=True))
    before = states(alias)
    for name in ("mine", "early"):
        app.tasks[name].apply((alias, [*ids, max(ids) + 1, 2**62]))
    assert [after for after in states(alias) if after not in before] == [("mine", "done", 1)]
    assert outbox(alias, receiver="mine", state="done").count() == 2
    assert set(outbox(alias, receiver="other").values_list("state", flat=True)) == {"queued"}
    assert set(outbox(alias, receiver="early").values_list("state", flat=True)) == {"waiting"}


def test_a_message_that_names_another_database_wakes_nothing_here(app: celery.Celery, every_alias: list[str]) -> None:
    async_receiver(post_save, sender=Author, name="mine")(lambda **kwargs: None)
    for alias in every_alias:
        Author.objects.using(alias).create(name="Ada")
        outbox(alias).update(id=77)
    app.tasks["mine"].apply(("sqlite", [77]))
    assert {alias for alias in every_alias if states(alias) == [("mine", "done", 1)]} == {"sqlite"}
    assert "not in DATABASES" in refused(app, "mine", "elsewhere", [77])


def test_a_repeated_message_has_no_second_effect(app: celery.Celery, every_alias: list[str]) -> None:
    receive("once")
    Author.objects.create(name="Ada")
    for _ in range(3):
        app.tasks["once"].apply(("default", [outbox("default").get().pk]))
    assert handled() == [("once", "Ada")]


# Who can write to the broker: transient


def forged_signatures(sent: list[wire.Item]) -> dict[str, str]:
    message = the_message(sent)
    content = message.rpartition(":")[0]
    receiver, moment, event = content.split("\n", 2)
    return {
        "another event": message.replace(event, event.replace("post_save", "pre_save")),
        "another receiver": message.replace(receiver, "second", 1),
        "another moment": message.replace(moment, f"{float(moment) + 3600:.3f}", 1),
        "no signature": content,
        "another key": Signer(key="guessed", salt=wire.SIGNING_SALT).sign(content),
        "signed elsewhere in the project": Signer().sign(content),
        "signed as a session": TimestampSigner(salt="django.contrib.sessions.SessionStore").sign(content),
    }


@pytest.mark.parametrize("how", range(7))
def test_a_transient_message_that_was_changed_is_refused(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], how: int
) -> None:
    receive("first", durable=False)
    Author.objects.create(name="Ada")
    async_receiver(post_save, sender=Effect, name="second", durable=False)(lambda **kwargs: None)
    what, forged = list(forged_signatures(sent).items())[how]
    good = the_message(sent)
    assert forged != good
    assert "signature is not valid" in refused(app, "first", forged), what
    assert "signature is not valid" in refused(app, "second", forged), what
    assert handled() == []
    assert refused(app, "first", good) == ""
    assert handled() == [("first", "Ada")]


def test_a_transient_message_is_for_its_own_receiver_alone(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item]
) -> None:
    receive("first", durable=False)
    Author.objects.create(name="Ada")
    receive("second", durable=False)
    receive("durable")
    assert "for another receiver" in refused(app, "second", the_message(sent))
    assert "1 arguments instead of 2" in refused(app, "durable", the_message(sent))
    assert handled() == []


def test_a_key_that_was_replaced_counts_as_long_as_it_is_a_fallback(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], settings: Any
) -> None:
    receive("rotated", durable=False)
    Author.objects.create(name="Ada")
    message = the_message(sent)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the new one"
    assert refused(app, "rotated", message) == ""
    settings.SECRET_KEY_FALLBACKS = []
    assert "is SECRET_KEY the same in the web process?" in refused(app, "rotated", message)
    assert handled() == [("rotated", "Ada")]


def test_an_old_transient_message_is_refused_once_it_has_expired(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], later: Callable[[float], None]
) -> None:
    receive("perishing", durable=False, expires=60)
    Author.objects.create(name="Ada")
    message = the_message(sent)
    later(59)
    assert refused(app, "perishing", message) == ""
    assert the_message(sent) == message  # also when it is published late: it waited for the broker
    later(2)
    # Whatever its headers say, which nobody has signed.
    for headers in ({}, {"expires": None}, {"retries": 3}, {"expires": time.time() + 3600, "countdown": 0}):
        assert "has expired, 60 s" in refused(app, "perishing", message, **headers)
    assert handled() == [("perishing", "Ada")]


def test_a_countdown_is_part_of_the_time_until_it_expires(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], later: Callable[[float], None]
) -> None:
    receive("slow", durable=False, countdown=50, expires=60)
    Author.objects.create(name="Ada")
    later(51)
    assert refused(app, "slow", the_message(sent)) == ""
    assert handled() == [("slow", "Ada")]


def test_each_retry_has_to_begin_before_it_expires(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], later: Callable[[float], None]
) -> None:
    attempts: list[int] = []

    @async_receiver(post_save, sender=Author, name="retried", durable=False, expires=60, retry_backoff=0)
    def retried(**kwargs: Any) -> None:
        attempts.append(len(attempts))
        later(25)
        raise ValueError

    Author.objects.create(name="Ada")
    assert "has expired" in refused(app, "retried", the_message(sent))  # apply() runs the retries, too
    assert attempts == [0, 1, 2]


def test_the_header_counts_from_the_commit_and_not_from_the_publication(
    redis_broker: str, later: Callable[[float], None]
) -> None:
    app = celery.Celery("tests", broker=redis_broker, set_as_current=True)
    app.set_default()
    receive("perishing", durable=False)
    waited = wire.Message("perishing", str(uuid7()), "text", 0.0, 60.0)
    later(1000)
    channel = wire.Channel()
    channel.send([waited, wire.Message("perishing", str(uuid7()), "text", 0.0, 60.0, time.time())])
    channel.close()
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        first, second = queue.get(timeout=10), queue.get(timeout=10)
        queue.close()
    assert second.headers["expires"] > first.headers["expires"]
    assert 50_000 < int(second.properties["expiration"]) <= 60_000
    assert first.properties["expiration"] == "0"
    app.close()


def test_without_expires_an_old_transient_message_can_be_replayed(
    app: celery.Celery, every_alias: list[str], sent: list[wire.Item], later: Callable[[float], None]
) -> None:
    """A limit, not a promise: the document says so, and what to do."""
    receive("lasting", durable=False)
    Author.objects.create(name="Ada")
    for _ in range(2):
        later(30 * 24 * 3600)
        assert refused(app, "lasting", the_message(sent)) == ""
    assert handled() == [("lasting", "Ada")] * 2


# Who can write to the database


def test_a_row_is_believed(every_alias: list[str]) -> None:
    """A limit, not a promise: who writes to the outbox chooses what a receiver gets."""

    @async_receiver(post_save, sender=Author, name="believes")
    def believes(created: bool, **kwargs: Any) -> None:
        Effect.objects.create(receiver="believes", note=str(created))

    Author.objects.create(name="Ada")
    payload = outbox("default").get().payload
    outbox("default").update(payload=payload.replace('"created":true', '"created":"written by hand"'))
    work("default")
    assert handled() == [("believes", "written by hand")]


def test_a_row_names_no_module_to_import(every_alias: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "planted_module.py").write_text("class Planted: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    receive("reads")
    Author.objects.create(name="Ada")
    row = outbox("default").get()
    planted = row.payload.replace('"created":true', '"created":{"$":"global","v":"planted_module:Planted"}')
    assert planted != row.payload
    outbox("default").update(payload=planted)
    work("default")
    assert states("default") == [("reads", "dead", 1)]
    assert "in a module that is not loaded here" in outbox("default").get().errors[-1]["message"]
    assert "planted_module" not in sys.modules


def test_a_row_for_an_unknown_receiver_runs_nothing(app: celery.Celery, every_alias: list[str]) -> None:
    receive("known")
    Author.objects.create(name="Ada")
    outbox("default").update(receiver="os.system")
    app.tasks["known"].apply(("default", [outbox("default").get().pk]))
    work("default")
    assert states("default") == [("os.system", "queued", 0)]
    assert handled() == []


# Who uses the admin


@pytest.mark.parametrize(
    ("permissions", "sees", "replays", "discards", "reads"),
    [
        ([], False, False, False, False),
        (["view_delivery"], True, False, False, False),
        (["view_delivery", "add_delivery", "change_delivery", "delete_delivery"], True, False, False, False),
        (["replay_delivery", "discard_delivery", "view_payload"], False, False, False, False),
        (["view_delivery", "replay_delivery"], True, True, False, False),
        (["view_delivery", "discard_delivery"], True, False, True, False),
        (["view_delivery", "view_payload"], True, False, False, True),
    ],
)
def test_deliveries_in_the_admin_need_a_permission_for_each_thing(
    every_alias: list[str], permissions: list[str], sees: bool, replays: bool, discards: bool, reads: bool
) -> None:
    @async_receiver(post_save, sender=Author, name="failing", max_retries=0, snapshot=True)
    def failing(**kwargs: Any) -> None:
        raise ValueError

    Author.objects.create(name=CANARY)
    Author.objects.create(name=CANARY)
    work("default")
    first, second = outbox("default").values_list("pk", flat=True)
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    page = "/admin/signalq/delivery/"
    for place in ("", f"{first}/change/", "flow/", "flow/receiver/?name=failing"):
        assert client.get(page + place).status_code == (200 if sees else 403)
    assert (CANARY in client.get(f"{page}{first}/change/").content.decode()) is reads
    for pk, action in ((first, "replay"), (second, "discard")):
        client.post(page, {"action": action, "index": 0, "_selected_action": pk, "confirmed": "yes"})
        client.post(f"{page}{pk}/change/", {"state": "done"})
        client.post(f"{page}{pk}/delete/", {"post": "yes"})
    expected = ["queued" if replays else "dead", "discarded" if discards else "dead"]
    assert list(outbox("default").values_list("state", flat=True)) == expected


def test_stored_outcomes_need_a_permission_of_their_own(every_alias: list[str]) -> None:
    client = Client()
    page = "/admin/django_celery_results/taskresult/"
    assert client.get(page).status_code == 302
    client.force_login(User.objects.create_user("staff", is_staff=True))
    assert client.get(page).status_code == 403
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(page).status_code == 200


# Who sends requests


def sign_in(request: HttpRequest) -> HttpResponse:
    authenticate(request, username="ada", password=request.POST["password"])
    raise ValueError


urlpatterns = [path("in", sign_in)]


def test_no_credential_of_a_request_is_recorded(every_alias: list[str], settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    for signal in (request_started, got_request_exception, user_login_failed):
        async_receiver(signal, name=f"hears.{len(outbox('default'))}.{id(signal)}")(lambda **kwargs: None)
    client = Client(raise_request_exception=False)
    client.cookies["sessionid"] = CANARY
    secret = {"authorization": f"Bearer {CANARY}", "proxy-authorization": CANARY}
    response = client.post("/in?page=2", {"password": CANARY}, headers={**secret, "user-agent": "Browser"})
    response.close()
    recorded = list(outbox("default").values_list("payload", flat=True))
    assert len(recorded) == 3
    assert sum("Browser" in payload for payload in recorded) == 3
    assert not [payload for payload in recorded if CANARY in payload]


def test_a_request_cannot_make_an_event_of_any_size(every_alias: list[str], settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.SIGNALQ = {**settings.SIGNALQ, "MAX_PAYLOAD": 2_000}
    async_receiver(got_request_exception, name="hears")(lambda **kwargs: None)
    with pytest.raises(CaptureError, match="MAX_PAYLOAD is 2,000"):
        Client().post("/in", {"password": "x"}, headers={"user-agent": "B" * 3_000})
    assert states("default") == []


# The document


def test_every_test_that_the_document_names_exists() -> None:
    document = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", document)
    assert len(named) > 20
    missing = [f"{file}::{test}" for file, test in named if f"\ndef {test}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_every_threat_names_a_test() -> None:
    document = (ROOT / "docs/security.md").read_text()
    rows = [line for line in document.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    rows = [row for row in rows if not row.startswith("|---")]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []

"""The admin's list and page of deliveries."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.views.decorators.debug import sensitive_variables
from django_celery_results.models import TaskResult

from signalq import Created, async_receiver, conf
from signalq.queryset import State
from tests.steps import outbox, work
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.usefixtures("temporary_receivers", "every_alias")

paid = Signal()

LIST = "/admin/signalq/delivery/"
MASK = "*" * 20


def staff(*permissions: str) -> Client:
    user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="signalq", codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def superuser() -> Client:
    client = Client()
    root = User.objects.filter(username="root").first() or User.objects.create_superuser("root")
    client.force_login(root)
    return client


@pytest.fixture
def failing() -> Any:
    """Fails until `mended` is set."""

    @async_receiver(post_save, sender=Author, name="greet", max_retries=0, when=Created())
    def greet(instance: Author, **kwargs: Any) -> None:
        if not getattr(greet, "mended", False):
            raise ValueError(f"no mail server for number {instance.pk}")

    return greet


def dead(alias: str, count: int = 1) -> list[int]:
    """Ids of dead deliveries of `failing`."""
    with transaction.atomic(alias):
        for number in range(count):
            Author.objects.using(alias).create(name=f"Ada {number}")
    work(alias)
    return list(outbox(alias, state=State.DEAD).values_list("pk", flat=True))


def listed(client: Client, alias: str, **query: str) -> str:
    response = client.get(LIST, {"database": alias, **query})
    assert response.status_code == 200
    return response.content.decode()


def ids_in(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'name="_selected_action" value="(\d+)"', page)]


def act(client: Client, alias: str, action: str, ids: list[int], query: str = "", **more: str) -> Any:
    data = {"action": action, "index": "0", "_selected_action": [str(pk) for pk in ids], **more}
    return client.post(f"{LIST}?database={alias}{query}", data)


# Who may what.


def test_without_a_permission_there_is_nothing_to_see(every_alias: list[str], failing: Any) -> None:
    pk = dead("default")[0]
    client = staff()
    for page in ("", f"{pk}/change/", f"{pk}/history/", "flow/", "flow/receiver/?name=greet"):
        assert client.get(LIST + page).status_code == 403, page
        assert Client().get(LIST + page).status_code == 302, page
    assert "signalq" not in client.get("/admin/").content.decode()


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_an_action_needs_its_own_permission(every_alias: list[str], failing: Any, action: str) -> None:
    (pk,) = dead("default")
    other = {"replay": "discard_delivery", "discard": "replay_delivery"}[action]
    client = staff("view_delivery", other)
    assert f'value="{action}"' not in listed(client, "default")
    act(client, "default", action, [pk], confirmed="yes")
    assert outbox("default").get().state == State.DEAD
    assert not LogEntry.objects.exists()
    for page in (f"{LIST}{pk}/change/", f"{LIST}flow/receiver/?name=greet"):
        assert f'name="action" value="{action}"' not in client.get(page).content.decode()

    allowed = staff("view_delivery", f"{action}_delivery")
    act(allowed, "default", action, [pk], confirmed="yes")
    assert outbox("default").get().state == {"replay": State.QUEUED, "discard": State.DISCARDED}[action]


def test_nobody_adds_changes_or_deletes_one(every_alias: list[str], failing: Any) -> None:
    (pk,) = dead("default")
    client = superuser()
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}{pk}/change/", {"state": "done"}).status_code == 405
    assert client.post(f"{LIST}{pk}/delete/", {"post": "yes"}).status_code == 403
    act(client, "default", "delete_selected", [pk], post="yes")
    assert outbox("default").get().state == State.DEAD


def test_actions_are_for_post_with_a_token(every_alias: list[str], failing: Any) -> None:
    (pk,) = dead("default")
    client = superuser()
    client.get(
        LIST, {"action": "replay", "_selected_action": pk, "index": "0", "select_across": "1", "confirmed": "yes"}
    )
    assert outbox("default").get().state == State.DEAD
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="root"))
    assert act(strict, "default", "replay", [pk]).status_code == 403
    assert outbox("default").get().state == State.DEAD


# Replay and discard.


def test_replay_queues_what_was_selected_again_and_is_on_record(alias: str, failing: Any) -> None:
    first, second, _third = dead(alias, 3)
    client = superuser()
    response = act(client, alias, "replay", [first, second])
    assert response.status_code == 302
    assert list(outbox(alias).values_list("state", flat=True)) == [State.QUEUED, State.QUEUED, State.DEAD]
    assert "2 deliveries are queued again" in listed(client, alias)
    entries = LogEntry.objects.order_by("object_id")
    assert [(entry.object_id, entry.user.username) for entry in entries] == [
        (str(first), "root"),
        (str(second), "root"),
    ]
    assert f"Replayed (database {alias})" in entries[0].change_message
    assert f"greet #{first}" in entries[0].object_repr
    history = client.get(f"{LIST}{first}/history/", {"database": alias}).content.decode()
    assert f"Replayed (database {alias})" in history

    failing.mended = True
    work(alias)
    assert list(outbox(alias).values_list("state", flat=True)) == [State.DONE, State.DONE, State.DEAD]


def test_discard_asks_first(alias: str, failing: Any) -> None:
    (pk,) = dead(alias)
    client = superuser()
    page = act(client, alias, "discard", [pk]).content.decode()
    assert "Discard 1 delivery?" in page
    assert outbox(alias).get().state == State.DEAD
    act(client, alias, "discard", [pk], confirmed="yes")
    delivery = outbox(alias).get()
    assert delivery.state == State.DISCARDED
    assert delivery.errors[-1]["message"] == "In the admin, by root"
    assert "Discarded" in LogEntry.objects.get().change_message


def test_all_that_match_are_replayed_in_chunks(alias: str, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signalq.panel.actions.CHUNK", 20)
    dead(alias, 55)
    client = superuser()
    everything = {"select_across": "1", "query": "&state=dead&receiver=greet"}
    page = act(client, alias, "replay", [0], **everything).content.decode()
    assert "Replay 55 deliveries?" in page
    assert outbox(alias, state=State.DEAD).count() == 55

    with CaptureQueriesContext(connections[alias]) as queries:
        act(client, alias, "replay", [0], confirmed="yes", **everything)
    updates = [query["sql"] for query in queries if query["sql"].startswith("UPDATE") and "signalq" in query["sql"]]
    assert len(updates) == 3
    assert outbox(alias, state=State.QUEUED).count() == LogEntry.objects.count() == 55


def test_a_request_ends_and_says_that_there_is_more(alias: str, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signalq.panel.actions.AT_ONCE", 5)
    dead(alias, 8)
    client = superuser()
    act(client, alias, "replay", [0], select_across="1", confirmed="yes")
    assert outbox(alias, state=State.QUEUED).count() == 5
    page = listed(client, alias)
    assert "5 deliveries are queued again" in page
    assert "there are more" in page


def test_all_that_match_leaves_alone_what_somebody_discarded(alias: str, failing: Any) -> None:
    discarded, other = dead(alias, 2)
    outbox(alias, pk=discarded).discard("not needed")
    client = superuser()
    act(client, alias, "replay", [0], select_across="1", confirmed="yes")
    assert outbox(alias).get(pk=discarded).state == State.DISCARDED
    assert outbox(alias).get(pk=other).state == State.QUEUED
    act(client, alias, "replay", [0], select_across="1", confirmed="yes", query="&state=discarded")
    assert outbox(alias).get(pk=discarded).state == State.QUEUED


def test_what_is_replayed_is_published_after_the_commit(
    every_alias: list[str], failing: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pk,) = dead("default")
    sent: list[Any] = []
    settings.SIGNALQ = {**settings.SIGNALQ, "PUBLISH": True}
    monkeypatch.setattr("signalq.publish.send", sent.extend)
    act(superuser(), "default", "replay", [pk])
    assert [(wake.using, wake.receiver, wake.id) for wake in sent] == [("default", "greet", pk)]


def test_back_to_where_it_was_asked_for_and_nowhere_else(every_alias: list[str], failing: Any) -> None:
    first, second = dead("default", 2)
    client = superuser()
    here = f"{LIST}flow/receiver/?name=greet"
    assert act(client, "default", "replay", [first], next=here)["Location"] == here
    assert "evil" not in act(client, "default", "replay", [second], next="https://evil.example/")["Location"]
    # The way to the one that was replayed, to see what becomes of it.
    assert f'href="{LIST}{first}/change/"' in client.get(here).content.decode()


# The list.


def test_each_database_has_its_list(every_alias: list[str], failing: Any) -> None:
    found = {alias: dead(alias) for alias in every_alias}
    client = superuser()
    for alias in every_alias:
        page = listed(client, alias)
        assert ids_in(page) == found[alias]
        (link,) = re.findall(rf'href="{LIST}{found[alias][0]}/change/\?([^"]*)"', page)
        assert f"database%3D{alias}" in link
        assert alias == "default" or f";database={alias}" in link
        assert (
            f"greet #{found[alias][0]}"
            in client.get(f"{LIST}{found[alias][0]}/change/?{unescape(link)}").content.decode()
        )
        for other in every_alias:
            assert f"?database={other}" in page
    assert ids_in(listed(client, "no-such-alias")) == found["default"]


def test_filters(alias: str, failing: Any) -> None:
    @async_receiver(post_save, sender=Book, name="index", retry_backoff=60)
    def index(instance: Book, **kwargs: Any) -> None:
        if instance.title == "bad":
            raise ValueError("no")

    (dead_pk,) = dead(alias)
    Book.objects.using(alias).create(title="good")
    Book.objects.using(alias).create(title="bad")
    work(alias)
    Book.objects.using(alias).create(title="later")
    done, retrying, queued = list(outbox(alias, receiver="index").values_list("pk", flat=True))
    client = superuser()
    for query, expected in [
        ({"state": "dead"}, [dead_pk]),
        ({"state": "done"}, [done]),
        ({"state": "retrying"}, [retrying]),
        ({"state": "open"}, [queued, retrying]),
        ({"state": "queued"}, [queued]),
        ({"receiver": "index"}, [queued, retrying, done]),
        ({"receiver": "index", "state": "dead"}, []),
        ({"sender": "testapp.author"}, [dead_pk]),
        ({"signal": "django.db.models.signals.post_save"}, [queued, retrying, done, dead_pk]),
        ({"age": "15m"}, [queued, retrying, done, dead_pk]),
        ({"age": "over1h"}, []),
    ]:
        assert ids_in(listed(client, alias, **query)) == expected, query


def test_a_renamed_receiver_is_found_with_its_old_deliveries(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="new", aliases=["old"])
    def receiver(**kwargs: Any) -> None: ...

    Author.objects.using(alias).create(name="Ada")
    outbox(alias).update(receiver="old")
    assert len(ids_in(listed(superuser(), alias, receiver="new"))) == 1


def test_what_is_parked_can_be_filtered_for(every_alias: list[str], failing: Any) -> None:
    (pk,) = dead("default")
    outbox("default").update(receiver="gone.receiver")
    client = superuser()
    assert "?receiver=gone.receiver" in listed(client, "default").replace("database=default&amp;", "")
    assert ids_in(listed(client, "default", receiver="gone.receiver")) == [pk]


def test_search(alias: str, failing: Any) -> None:
    first, second = dead(alias, 2)
    one, two = outbox(alias)
    client = superuser()
    for text, expected in [
        (str(one.event_id), [first]),
        (one.object_pk, [first] if int(one.object_pk) not in (first, second) else None),
        (f"testapp.author:{two.object_pk}", [second]),
        (f"testapp.book:{two.object_pk}", []),
        ("no mail server", [second, first]),
        ("ValueError", [second, first]),
        ("NO MAIL", [second, first]),
        ("nothing like it", []),
        ("%", []),
        ('"', None),
        ("00000000-0000-4000-8000-000000000000", []),
    ]:
        found = ids_in(listed(client, alias, q=text))
        assert expected is None or found == expected, text


def test_error_text_is_found_as_it_was_written(alias: str) -> None:
    @async_receiver(post_save, sender=Author, max_retries=0, name="quoting")
    def quoting(**kwargs: Any) -> None:
        raise ValueError('naïve "quotes" and 🐍')

    dead(alias)
    client = superuser()
    for text in ("naïve", '"quotes"', "🐍"):
        assert len(ids_in(listed(client, alias, q=text))) == 1, text


def test_a_search_is_bounded_and_says_so(alias: str, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signalq.panel.places.NEIGHBOURHOOD", 5)
    monkeypatch.setattr("signalq.panel.places.EXACT", 2)
    ids = dead(alias, 12)
    first = outbox(alias)[0]
    outbox(alias, pk__in=ids[1:4]).update(state=State.DONE)
    client = superuser()
    page = listed(client, alias, q=f"testapp.author:{first.object_pk}")
    assert "Looked at: the newest 100,000" in page
    assert ids_in(page) == []  # seven dead ones are newer than it
    outbox(alias, pk__in=ids[4:]).update(state=State.DONE)
    assert ids_in(listed(client, alias, q=f"testapp.author:{first.object_pk}")) == [first.pk]
    # An event's id holds the time, so that it is found wherever it is.
    assert ids_in(listed(client, alias, q=str(outbox(alias)[2].event_id))) == [ids[2]]


def test_the_list_counts_nothing(alias: str, failing: Any) -> None:
    dead(alias, 60)
    client = superuser()
    for query in ({}, {"state": "dead"}, {"receiver": "greet"}, {"q": "Ada"}, {"p": "2"}, {"age": "1h"}):
        with CaptureQueriesContext(connections[alias]) as queries:
            listed(client, alias, **query)
        mine = [query["sql"] for query in queries if "signalq_delivery" in query["sql"]]
        assert mine
        assert not [sql for sql in mine if "COUNT(" in sql.upper()], query
        assert "payload" not in " ".join(mine)
    assert len(mine) < 10
    assert len(ids_in(listed(client, alias))) == 50
    second = listed(client, alias, p="2")
    assert len(ids_in(second)) == 10
    assert "Newer" in second
    assert "Older" not in second
    assert "Deliveries 51 to 60" in second


# One delivery.


def detail(client: Client, alias: str, pk: int) -> str:
    response = client.get(f"{LIST}{pk}/change/", {"database": alias})
    assert response.status_code == 200
    return response.content.decode()


def test_each_attempt_is_there_with_its_traceback(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="flaky", max_retries=1, retry_backoff=0)
    def flaky(**kwargs: Any) -> None:
        raise OSError("disk full")

    Author.objects.using(alias).create(name="Ada")
    work(alias)
    outbox(alias).update(state=State.QUEUED)
    work(alias)
    page = detail(superuser(), alias, outbox(alias).get().pk)
    assert "Attempt 1" in page
    assert "Attempt 2" in page
    assert page.count("Traceback (most recent call last)") == 2
    assert "OSError</strong>: disk full" in page
    assert "in flaky" in page
    assert f"{__name__.replace('.', '/')}.py:" in page


def test_a_payload_needs_a_permission_of_its_own(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="snap", snapshot=True)
    def snap(**kwargs: Any) -> None: ...

    Author.objects.using(alias).create(name="Ada", email="ada@lovelace.example")
    pk = outbox(alias).get().pk
    without = detail(staff("view_delivery", "replay_delivery", "discard_delivery"), alias, pk)
    assert "ada@lovelace.example" not in without
    assert "signalq.view_payload" in without
    assert "ada@lovelace.example" in detail(staff("view_delivery", "view_payload"), alias, pk)


def test_secrets_are_masked(every_alias: list[str], settings: Any) -> None:
    @async_receiver(paid, name="book_payment")
    @sensitive_variables("iban")
    def book_payment(iban: str, **kwargs: Any) -> None: ...

    @async_receiver(paid, name="book_later")
    @sensitive_variables("iban")
    async def book_later(iban: str, **kwargs: Any) -> None: ...

    @async_receiver(paid, name="book_all")
    @sensitive_variables()
    def book_all(**kwargs: Any) -> None: ...

    paid.send(
        sender=None,
        iban="DE-private",
        author="Ada",
        details={"password": "hunter2", "lines": [{"Api_Key": "k-123", "amount": 5}]},
        access_token="t-456",
    )
    client = superuser()
    for name in ("book_payment", "book_later", "book_all"):
        page = detail(client, "default", outbox("default", receiver=name).get().pk)
        assert not [secret for secret in ("hunter2", "k-123", "t-456", "DE-private") if secret in page], name
        assert MASK in page
        assert ("Ada" in page) is (name != "book_all")
    settings.SIGNALQ = {**settings.SIGNALQ, "SENSITIVE_FIELDS": ["author"]}
    page = detail(client, "default", outbox("default", receiver="book_payment").get().pk)
    assert "Ada" not in page
    assert "hunter2" in page
    assert "DE-private" not in page
    settings.SIGNALQ = {**settings.SIGNALQ, "SENSITIVE_FIELDS": "author"}
    with pytest.raises(ImproperlyConfigured, match="must be a list of texts, not 'author'"):
        conf.current()


def test_a_traceback_holds_no_values(every_alias: list[str]) -> None:
    @async_receiver(post_save, sender=Author, name="secretive", max_retries=0)
    @sensitive_variables("card")
    def secretive(instance: Author, **kwargs: Any) -> None:
        card = f"4111-{instance.name}-1111"
        raise ValueError(f"{len(card)} characters")

    (pk,) = dead("default")
    page = detail(superuser(), "default", pk)
    assert "secretive" in page
    assert "4111-Ada" not in page


def test_a_cascade_is_linked_in_both_directions(alias: str) -> None:
    @async_receiver(post_save, sender=Author, name="cause")
    def cause(instance: Author, **kwargs: Any) -> None:
        Book.objects.using(alias).create(title="x", author=instance)

    @async_receiver(post_save, sender=Author, name="bystander")
    def bystander(**kwargs: Any) -> None: ...

    @async_receiver(post_save, sender=Book, name="effect")
    def effect(**kwargs: Any) -> None: ...

    Author.objects.using(alias).create(name="Ada")
    work(alias)
    work(alias)
    numbers = dict(outbox(alias).values_list("receiver", "pk"))
    client = superuser()

    def related(name: str, heading: str) -> str:
        page = detail(client, alias, numbers[name])
        return page.split(f"<dt>{heading}</dt>")[1].split("</dd>")[0]

    assert f"cause #{numbers['cause']}" in related("effect", "caused by")
    assert "bystander" not in related("effect", "caused by")
    assert f"effect #{numbers['effect']}" in related("cause", "its handler caused")
    assert "effect" not in related("bystander", "its handler caused")
    assert f"bystander #{numbers['bystander']}" in related("cause", "same event, other receivers")
    assert "no other handler" in related("cause", "caused by")
    outbox(alias, receiver="cause").delete()
    assert "no longer in this outbox" in related("effect", "caused by")


def test_links_to_the_object_and_to_the_result(every_alias: list[str]) -> None:
    @async_receiver(post_save, sender=User, name="of_user")
    def of_user(**kwargs: Any) -> None: ...

    user = User.objects.create_user("grace")
    delivery = outbox("default").get()
    client = superuser()
    page = detail(client, "default", delivery.pk)
    assert f'href="/admin/auth/user/{user.pk}/change/"' in page
    assert "not stored" in page
    result = TaskResult.objects.create(task_id=delivery.result_id)
    page = detail(client, "default", delivery.pk)
    assert f'href="/admin/django_celery_results/taskresult/{result.pk}/change/"' in page
    page = detail(staff("view_delivery"), "default", delivery.pk)
    assert "/admin/auth/user/" not in page
    assert "/admin/django_celery_results/" not in page


def test_damage_is_shown_as_such(every_alias: list[str], failing: Any) -> None:
    (pk,) = dead("default")
    outbox("default").update(payload="<script>alert(1)</script>", object_pk="<b>", sender="<i>x</i>")
    page = detail(superuser(), "default", pk)
    assert "This is not an event&#x27;s text" in page
    assert "<script>alert" not in page
    assert "<i>x" not in page + listed(superuser(), "default")


def test_numbers_are_not_dressed_up_where_they_are_addresses(
    every_alias: list[str], failing: Any, settings: Any
) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    settings.LANGUAGE_CODE = "de"
    dead("default")
    outbox("default").update(id=1234567)
    client = superuser()
    page = detail(client, "default", 1234567)
    assert 'name="_selected_action" value="1234567"' in page
    assert ids_in(listed(client, "default")) == [1234567]
    assert 'value="1234567"' in act(client, "default", "discard", [1234567]).content.decode()
    assert "1234567/change/" in client.get(f"{LIST}flow/receiver/?name=greet").content.decode()


def test_a_delivery_that_is_gone(every_alias: list[str]) -> None:
    client = superuser()
    response = client.get(f"{LIST}999/change/")
    assert response.status_code == 302

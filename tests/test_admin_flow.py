"""The flow page and the page behind a receiver, as a browser without scripts gets them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, transaction
from django.db.models.signals import post_save
from django.test import Client
from django.utils import timezone

from signalq import Created, async_receiver
from signalq.flow import looks
from signalq.flow.overview import flow
from signalq.panel.picture import COLUMNS, WIDTHS, picture
from signalq.queryset import State
from signalq.receivers import registry
from tests.steps import outbox, work
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.usefixtures("temporary_receivers", "every_alias")

FLOW = "/admin/signalq/delivery/flow/"
LIVE = {"HX-Request": "true"}


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def get(client: Client, path: str = FLOW, **options: Any) -> str:
    response = client.get(path, **options)
    assert response.status_code == 200
    return response.content.decode()


def behind(client: Client, name: str) -> str:
    return get(client, f"{FLOW}receiver/", query_params={"name": name})


def a_bad_day(alias: str, **options: Any) -> Any:
    """Three dead letters of two kinds."""

    @async_receiver(post_save, sender=Author, name="shop.receivers.greet", max_retries=0, **options)
    def greet(instance: Author, **kwargs: Any) -> None:
        if instance.name == "Grace":
            raise ValueError("too short")
        raise ConnectionRefusedError(f"no server for number {instance.pk}")

    with transaction.atomic(alias):
        for name in ("Ada", "Ada", "Grace"):
            Author.objects.using(alias).create(name=name)
    work(alias)
    return greet


def test_the_index_and_the_list_lead_to_it(client: Client) -> None:
    for page in ("/admin/", "/admin/signalq/", "/admin/signalq/delivery/"):
        assert (f'href="{FLOW}"' in get(client, page)) is (page != "/admin/")


def test_each_number_leads_to_its_deliveries(alias: str, client: Client) -> None:
    a_bad_day(alias)
    page = get(client)
    assert "1 of 1 receivers needs you." in page
    (link,) = re.findall(r'href="([^"]+)" class="sq-dead-number"', page)
    listed = get(client, link.replace("&amp;", "&"))
    assert len(re.findall('name="_selected_action"', listed)) == 3
    assert "Needs you: 3 dead" in re.sub(r"\s+", " ", re.sub("<[^>]+>", "", page))


def test_behind_a_receiver_are_its_errors_grouped(alias: str, client: Client) -> None:
    a_bad_day(alias)
    page = behind(client, "shop.receivers.greet")
    groups = page.split('<article class="sq-attempt">')[1:]
    assert [re.findall(r"(\d+) deliver", group)[0] for group in groups] == ["2", "1"]
    assert "<h3>ConnectionRefusedError: no server for number" in groups[0]
    assert "<h3>ValueError: too short</h3>" in groups[1]
    for group in groups:
        assert "in greet" in group
        assert "<code>tests/test_admin_flow.py:" in group
        assert len(re.findall("<time ", group)) == 2
    assert "max_retries" in page
    assert f"{__name__.replace('.', '/')}.py:" in page


@pytest.mark.parametrize(
    ("options", "text"),
    [({}, "Atomic: database effects happen once."), ({"atomic": False}, "Not atomic: outside effects may repeat.")],
)
def test_it_says_what_a_replay_may_repeat(client: Client, options: dict[str, Any], text: str) -> None:
    a_bad_day("default", **options)
    assert text in behind(client, "shop.receivers.greet")


def buttons(page: str) -> dict[str, tuple[str, dict[str, str]]]:
    """What each form's button says, where the form goes, and what it holds."""
    found = {}
    for address, form in re.findall(r'<form method="post" action="([^"]+)">(.*?)</form>', page, re.DOTALL):
        fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', form))
        label = re.findall(r"<button[^>]*>(.*?)</button>", form)[0]
        found.setdefault(label, (address.replace("&amp;", "&"), fields))
    return found


def test_one_is_replayed_to_try_and_then_the_others(alias: str, client: Client) -> None:
    a_bad_day(alias)
    offered = buttons(behind(client, "shop.receivers.greet"))
    client.post(*offered["Replay this one, to try"])
    assert outbox(alias, state=State.QUEUED).count() == 1
    question = client.post(*offered["Replay all that are dead…"]).content.decode()
    assert "Replay 2 deliveries?" in question
    address, fields = offered["Replay all that are dead…"]
    client.post(address, {**fields, "confirmed": "yes"})
    assert outbox(alias, state=State.QUEUED).count() == 3


def test_parked_ones_have_a_way_out(alias: str, client: Client) -> None:
    @async_receiver(post_save, sender=Author, name="gone.receiver")
    def gone(**kwargs: Any) -> None: ...

    Author.objects.using(alias).create(name="Ada")
    registry.remove(gone)
    assert "1 parked, unknown here" in get(client)
    page = behind(client, "gone.receiver")
    assert "Was it renamed? Add aliases=[&quot;gone.receiver&quot;]" in page.replace('["', "[&quot;").replace(
        '"]', "&quot;]"
    )
    address, fields = buttons(page)["Discard all that are parked…"]
    client.post(address, {**fields, "confirmed": "yes"})
    assert outbox(alias).get().state == State.DISCARDED


def test_a_receiver_that_nobody_knows(client: Client) -> None:
    assert client.get(f"{FLOW}receiver/?name=no.such").status_code == 404


def test_its_page_is_found_by_its_old_name_too(client: Client) -> None:
    @async_receiver(post_save, sender=Author, name="new.name", aliases=["old.name"])
    def receiver(**kwargs: Any) -> None: ...

    assert "new.name" in behind(client, "old.name")


def test_looking_runs_no_handler(client: Client) -> None:
    ran = []

    @async_receiver(post_save, sender=Author, name="running")
    def running(*args: Any, **kwargs: Any) -> None:
        ran.append(1)

    Author.objects.create(name="Ada")
    get(client)
    behind(client, "running")
    get(client, f"/admin/signalq/delivery/{outbox('default').get().pk}/change/")
    assert ran == []


def test_htmx_gets_what_changes_alone(client: Client) -> None:
    a_bad_day("default")
    part = get(client, headers=LIVE)
    assert part.lstrip().startswith("<input")
    assert "<html" not in part
    assert "sq-picture" not in part
    assert "3 dead" in part
    # News is what has not been seen: it is read out.
    assert 'id="sq-announce"' in part
    seen = re.findall(r'name="seen" value="(\w+)"', part)[0]
    assert 'id="sq-announce"' not in get(client, query_params={"seen": seen}, headers=LIVE)
    assert "<html" not in get(client, f"{FLOW}receiver/?name=shop.receivers.greet", headers=LIVE)


def test_htmx_is_sent_to_the_login_with_its_page(client: Client) -> None:
    client.logout()
    response = client.get(FLOW, headers=LIVE)
    assert response.status_code == 401
    assert response["HX-Refresh"] == "true"


def test_it_works_while_a_database_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = looks.names

    def away(using: str) -> list[str]:
        if using == "sqlite":
            raise OperationalError("no answer")
        return names(using)

    monkeypatch.setattr(looks, "names", away)
    assert "No answer from" in get(client)
    assert client.get("/admin/signalq/delivery/").status_code == 200


def test_the_picture_has_every_name_and_no_box_on_another() -> None:
    for number in range(30):
        name = f"app{number}.receivers.{'a_very_long_name_' * (number % 9)}{number}"

        @async_receiver(post_save, sender=[Author, Book] if number % 3 else Book, name=name, queue=f"q{number % 4}")
        def receiver(**kwargs: Any) -> None: ...

    drawn = picture(flow().receivers)
    assert len([box for box in drawn.boxes if box.column == 2]) == 30
    for box in drawn.boxes:
        assert len(box.text) * 7 <= WIDTHS[box.column], box.text
        assert COLUMNS[box.column] == box.x
        for other in drawn.boxes:
            if other is not box and other.column == box.column:
                assert abs(other.y - box.y) >= box.height, (box.text, other.text)
        assert box.y + box.height <= drawn.height
    assert {box.title for box in drawn.boxes} >= {receiver.name for receiver in registry.all()}


def test_the_last_day_is_a_bar_for_each_hour(client: Client) -> None:
    @async_receiver(post_save, sender=Author, name="steady", when=Created())
    def steady(**kwargs: Any) -> None: ...

    for _ in range(3):
        Author.objects.create(name="Ada")
    work("default")
    first = outbox("default")[0]
    outbox("default", pk=first.pk).update(finished_at=timezone.now() - timedelta(hours=5))
    page = get(client)
    assert "Done in the last 24 hours: 3; in the busiest: 2" in page
    assert len(re.findall(r'<rect x="\d+" y="[\d.]+" width="3"', page)) == 2

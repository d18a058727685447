"""What a person reads in the admin can be translated, and is German where the reader is."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db.models.signals import post_save
from django.test import Client
from django.utils import timezone, translation
from django.utils.translation import override

from signalq import async_receiver
from signalq.flow.overview import flow
from signalq.flow.words import number, span
from signalq.models import Delivery
from signalq.panel.asking import REPLAY
from signalq.panel.picture import picture
from signalq.receivers import registry
from tests.steps import outbox, work
from tests.test_catalogs import catalog, texts
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable

LIST = "/admin/signalq/delivery/"


class Words(HTMLParser):
    """What a person reads of a page, or hears."""

    READ = ("alt", "aria-label", "data-label", "placeholder", "title")
    NOT_READ = ("code", "pre", "script", "style")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        is_button = tag == "input" and dict(attrs).get("type") == "submit"
        self.found += [value or "" for name, value in attrs if name in self.READ or (is_button and name == "value")]

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within not in self.NOT_READ:
            self.found.append(data)


@pytest.fixture
def client(every_alias: list[str], temporary_receivers: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def pages(client: Client) -> Callable[[], dict[str, str]]:
    """Visits every page: with what is well, what is dead, what is parked, and what is asked before an action."""

    @async_receiver(post_save, sender=Author, name="shop.greet", max_retries=0)
    def greet(instance: Author, **kwargs: Any) -> None:
        if instance.name == "Ada":
            raise ValueError(f"{instance.pk}")

    @async_receiver(post_save, sender=Author, name="shop.gone")
    def gone(**kwargs: Any) -> None: ...

    def visit() -> dict[str, str]:
        well = client.get(f"{LIST}flow/")
        Author.objects.create(name="Bob")
        outbox("default").update(due_at=timezone.now() - timedelta(seconds=30))
        waiting = client.get(f"{LIST}flow/")
        registry.remove(gone)
        for _ in range(3):
            Author.objects.create(name="Ada")
        work("default")
        dead, done = outbox("default", state="dead"), outbox("default", state="done")
        selected = {"index": "0", "_selected_action": [dead[0].pk]}
        asked = {"action": "replay", "select_across": "1", **selected}
        answers = {
            "flow": client.get(f"{LIST}flow/"),
            "flow without work": well,
            "flow without trouble": waiting,
            "receiver": client.get(f"{LIST}flow/receiver/", {"name": "shop.greet"}),
            "parked receiver": client.get(f"{LIST}flow/receiver/", {"name": "shop.gone"}),
            "index": client.get("/admin/signalq/"),
            "list": client.get(LIST),
            "list with a filter": client.get(LIST, {"state": "dead", "age": "1h"}),
            "empty list": client.get(LIST, {"q": "17000000"}),
            "dead": client.get(f"{LIST}{dead[0].pk}/change/"),
            "done": client.get(f"{LIST}{done[0].pk}/change/"),
            "parked": client.get(f"{LIST}{outbox('default', receiver='shop.gone')[0].pk}/change/"),
            "replay all?": client.post(LIST, asked),
            "discard?": client.post(LIST, {"action": "discard", **selected}),
            "nothing to discard": client.post(LIST, {"action": "discard", "_selected_action": [done[0].pk]}),
            "replayed": client.post(LIST, {"action": "replay", **selected}, follow=True),
            "nothing to replay": client.post(LIST, {**selected, "action": "replay"}, follow=True),
        }
        assert {answer.status_code for answer in answers.values()} == {200}
        return {name: answer.content.decode() for name, answer in answers.items()}

    return visit


DATA = {
    *(
        "shop",
        "greet",
        "gone",
        "post_save",
        "testapp",
        "author",
        "Author",
        "Ada",
        "root",
        "default",
        "sqlite",
        "mariadb",
    ),
    *(
        "created",
        "instance",
        "raw",
        "update_fields",
        "using",
        "ValueError",
        "django",
        "db",
        "models",
        "signals",
        "celery",
    ),
    *("p50", "p99"),
    "Search",  # Django's own, for the picture of a magnifying glass
}
"""What is not ours to translate."""


def test_no_word_of_a_page_is_beyond_translation(
    pages: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a language that puts every text in brackets, nothing but data stands outside of them."""
    for name in ("gettext", "pgettext", "ngettext", "npgettext"):
        original = getattr(translation._trans, name)  # type: ignore[attr-defined]
        bracketed = lambda *texts, original=original: f"⟦{original(*texts)}⟧"  # noqa: E731
        monkeypatch.setattr(translation._trans, name, bracketed)  # type: ignore[attr-defined]
    bare = [(name, text) for name, page in pages().items() for text in map(outside, Words(page).found)]
    words = {(name, word) for name, text in bare for word in re.findall(r"[^\W\d_]\w+", text)}
    assert {(name, word) for name, word in words if word not in DATA} == set()


def outside(text: str) -> str:
    """What stands in no brackets."""
    shorter = re.sub(r"⟦[^⟦⟧]*⟧", " ", text)
    return text if shorter == text else outside(shorter)


def test_the_pages_are_german_where_the_reader_is(pages: Callable[[], dict[str, str]]) -> None:
    differing = {text[0] for text, translated in texts(catalog("de")).items() if text != translated}
    sentences = {text for text in differing if " " in text and "%" not in text}
    with override("de"):
        found = {name: " ".join(map(unescape, Words(page).found)) for name, page in pages().items()}
    for name, text in found.items():
        assert [sentence for sentence in sentences if sentence in text] == [], name
    for name, sentence in {
        "flow without work": "Alles ist in Ordnung: nichts wartet.",
        "flow without trouble": "2 warten, die älteste seit",
        "flow": "2 von 2 Empfängern brauchen Ihr Eingreifen. Nichts ist verloren: 1 wartet, die älteste seit",
        "receiver": "3 Zustellungen (3 gescheitert, 0 im Neuversuch)",
        "parked receiver": 'Geben Sie seinem Nachfolger aliases=["shop.gone"]',
        "index": "Ablauf: was Ihr Eingreifen braucht",
        "list": "Zustellungen 1 bis 5",
        "list with a filter": "in den letzten 24 Stunden",
        "dead": "Kein Versuch ist übrig.",
        "done": "Ihr Handler ist gelaufen.",
        "parked": "Geparkt: Ihr Empfänger ist hier unbekannt.",
        "replay all?": "3 Zustellungen wiederholen?",
        "discard?": "1 Zustellung verwerfen?",
        "nothing to discard": "Es gab nichts zu verwerfen:",
        "replayed": "1 Zustellung ist wieder eingereiht.",
        "nothing to replay": "Es gab nichts zu wiederholen:",
    }.items():
        assert sentence in found[name], f"{name}: {' '.join(found[name].split())}"


# What texts are made of.


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["1,204", "0.5", "10,000+", "6 min", "12 ms"]),
        ("de", ["1.204", "0,5", "10.000+", "6 min", "12 ms"]),
    ],
)
def test_numbers_are_written_as_the_reader_writes_them(language: str, expected: list[str]) -> None:
    with override(language):
        assert [number(1_204), number(0.5), number(10_000, capped=True), span(400), span(0.012)] == expected


@pytest.mark.parametrize(
    ("language", "one", "two"),
    [
        ("en", "1 delivery is queued again.", "2 deliveries are queued again."),
        ("de", "1 Zustellung ist wieder eingereiht.", "2 Zustellungen sind wieder eingereiht."),
    ],
)
def test_one_is_not_told_as_many(language: str, one: str, two: str) -> None:
    with override(language):
        assert [REPLAY.done(count) % {"count": count} for count in (1, 2)] == [one, two]


def test_the_picture_counts_in_plurals(client: Client) -> None:
    async_receiver(post_save, sender=Author, name="shop.greet")(lambda **kwargs: None)
    assert picture(flow([]).receivers).summary == "1 receiver of 1 signal, in 1 queue. The table has the same."


def test_a_translated_text_does_not_let_markup_through(client: Client) -> None:
    Author.objects.create(name="Ada")
    name = '<b onclick="x">shop'
    Delivery.objects.bulk_create([Delivery(receiver=name, state="queued", event_id=uuid4(), created_at=timezone.now())])
    with override("de"):
        page = client.get(f"{LIST}flow/receiver/", {"name": name}).content.decode()
    assert 'Geben Sie seinem Nachfolger aliases=["&lt;b onclick=&quot;x&quot;&gt;shop"]' in page
    assert "<b onclick" not in page


def status(*options: str) -> str:
    output = io.StringIO()
    call_command("signalq", "status", "--database", "default", *options, stdout=output)
    return output.getvalue()


def test_what_a_command_shares_with_the_pages_is_translated_but_not_its_json(client: Client) -> None:
    expected = json.loads(status("--json"))
    with override("de"):
        assert status().startswith("Alles ist in Ordnung: nichts wartet.\n")
        given = json.loads(status("--json"))
    assert given["sentence"] == expected["sentence"] == "All is well: nothing waits."
    assert given["lights"] == expected["lights"]

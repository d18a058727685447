"""The flow page in a browser: live, by keyboard, dark, on a telephone, without scripts, under a strict policy."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from selenium.webdriver.common.keys import Keys

from signalq import async_receiver
from signalq.receivers import registry
from tests.steps import outbox, work
from tests.testapp.models import Author, Book

if TYPE_CHECKING:
    from tests.e2e.conftest import Page

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.timeout(180)]

FLOW = "/admin/signalq/delivery/flow/"
BEHIND = f"{FLOW}receiver/?name=shop.receivers.send_welcome_mail"


@pytest.fixture
def shop() -> None:
    """A shop on a bad day: dead letters, retries, a parked receiver, and many that are well."""

    @async_receiver(post_save, sender=Author, name="shop.receivers.send_welcome_mail", max_retries=0, atomic=False)
    def send_welcome_mail(instance: Author, **kwargs: Any) -> None:
        raise ConnectionRefusedError(f"[Errno 111] Connection refused: mail.example for number {instance.pk}")

    @async_receiver([post_save, post_delete], sender=Book, name=f"search.receivers.{'index_the_book_' * 6}again")
    def index(instance: Book, **kwargs: Any) -> None:
        raise TimeoutError("the search engine did not answer within 5 s")

    @async_receiver(post_save, sender=Author, name="old.receivers.removed")
    def removed(**kwargs: Any) -> None: ...

    for number in range(27):

        @async_receiver(post_save, sender=Author if number % 2 else Book, name=f"audit.receivers.note_number_{number}")
        def note(**kwargs: Any) -> None: ...

    with transaction.atomic():
        for number in range(3):
            Author.objects.create(name=f"Ada {number}")
            Book.objects.create(title=f"Notes {number}")
    registry.remove(removed)
    work("default")


def another_dead() -> None:
    Author.objects.create(name="Grace")
    work("default")


def test_it_is_live_and_leaves_the_reader_where_he_is(page: Page, shop: None) -> None:
    page.go(FLOW)
    assert page.text("#sq-announce") == ""
    page.js("window.marked = true; document.querySelector('a.sq-dead-number').focus()")
    focused = page.focused()
    assert page.text(f"#{focused}") == "3"
    another_dead()
    page.wait(lambda: page.text(f"#{focused}") == "4", "the number of dead ones")
    assert page.js("return window.marked")
    assert page.focused() == focused
    outbox("default", receiver="shop.receivers.send_welcome_mail").update(state="done")
    # What changes all the time is not read out, but who needs somebody is.
    page.wait(lambda: "send_welcome" not in page.text("#sq-announce") != "", "what is news")
    assert "removed: needs you" in page.text("#sq-announce")
    assert page.complaints() == []


def test_it_can_be_paused(page: Page, shop: None) -> None:
    page.go(FLOW)
    page.click("#sq-toggle")
    page.says(".sq-updated", "Paused.")
    assert page.js("return typeof htmx") == "undefined"
    page.click("#sq-toggle")
    page.says(".sq-updated", "Refreshed every 5 seconds.")


def test_it_says_when_what_it_shows_is_old(page: Page, shop: None) -> None:
    page.go(FLOW)
    assert page.text("#sq-stale") == ""
    page.offline(True)
    page.wait(lambda: "what you see is old" in page.text("#sq-stale"), "the warning")
    page.offline(False)
    page.wait(lambda: page.text("#sq-stale") == "", "the warning to go")


def test_whoever_is_signed_out_meanwhile_comes_to_the_login(page: Page, shop: None) -> None:
    page.go(FLOW)
    Session.objects.all().delete()
    page.wait(lambda: "/login/" in page.driver.current_url, "the login")
    assert FLOW in page.driver.current_url


def test_without_scripts_it_works_too(page: Page, shop: None) -> None:
    page.without_scripts()
    page.go(FLOW)
    assert "need" in page.driver.find_element("css selector", "#sq-sentence").text
    page.driver.find_element("partial link text", "send_welcome_mail").click()
    page.driver.find_element("xpath", "//button[contains(., 'Replay this one')]").click()
    assert "1 delivery is queued again" in page.driver.find_element("css selector", ".messagelist").text


def test_by_keyboard_alone(page: Page, shop: None) -> None:
    page.go(FLOW)
    order = []
    for _ in range(60):
        page.keys(Keys.TAB)
        order.append(page.focused())
        outline = page.js("const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.boxShadow")
        assert outline != "nonenone", f"no focus is to be seen on {order[-1]}"
        if page.text(f"#{order[-1]}" if order[-1] else "body").endswith("send_welcome_mail"):
            break
    assert order.index("sq-toggle") < order.index("sq-refresh") < len(order) - 1
    page.keys(Keys.ENTER)
    page.wait(lambda: "Replay all that are dead" in page.text("body"), "the page behind the receiver")
    page.js("document.querySelector('[name=action][value=replay] ~ button').focus()")
    page.keys(Keys.ENTER)
    page.wait(lambda: "1 delivery is queued again" in page.text(".messagelist"), "the replay")


@pytest.mark.parametrize("path", [FLOW, BEHIND, "/admin/signalq/delivery/", "delivery"])
def test_every_page_at_every_width_in_both_colours(page: Page, shop: None, path: str) -> None:
    if path == "delivery":
        path = f"/admin/signalq/delivery/{outbox('default', state='dead')[0].pk}/change/"
    for colours, width in itertools.product(["light", "dark"], [360, 1280]):
        page.colours(colours)
        page.size(width)
        page.go(path)
        assert page.js("return document.documentElement.scrollWidth") == width
        assert page.js(FAULTS) == []
        assert page.js(CONTRASTS) == [], colours
        assert page.complaints() == []  # among them what the content security policy forbids


# What can be said of a page without a person: names, labels, headings in their order, tables with captions.
FAULTS = """
const faults = [], all = (selector) => [...document.querySelectorAll(selector)];
const name = (e) => (e.getAttribute("aria-label") || e.innerText || e.title || "").trim();
all("#content a, #content button, #content summary").forEach((e) => name(e) || faults.push("no name: " + e.outerHTML));
all("#content svg[role=img]").forEach((e) => e.querySelector("title") || faults.push("no title: svg"));
all("#content table:not(#result_list)").forEach((e) => {
  if (!e.caption) faults.push("no caption");
  if (e.querySelector("th:not([scope])")) faults.push("th without scope");
});
all("#content [role=region]").forEach((e) => e.getAttribute("aria-labelledby") || faults.push("no label"));
const ids = all("[id]").map((e) => e.id);
ids.filter((id, n) => ids.indexOf(id) !== n).forEach((id) => faults.push("twice: " + id));
all("[aria-labelledby]").forEach((e) => e.getAttribute("aria-labelledby").split(" ")
  .forEach((id) => document.getElementById(id) || faults.push("not there: " + id)));
let level = 1;
all("#content h1, #content h2, #content h3").forEach((e) => {
  if (+e.tagName[1] > level + 1) faults.push("a level is left out before: " + e.innerText);
  level = +e.tagName[1];
});
if (all("main").length !== 1) faults.push("not one main");
if (all("#content h1").length !== 1) faults.push("not one h1");
if (!document.documentElement.lang) faults.push("no language");
all("#content [style], #content style, #content script:not([src])").forEach((e) => faults.push("inline: " + e.tagName));
return faults;
"""

# WCAG AA: 4.5 to 1 for text. Of our own parts; the frame around them is Django's.
CONTRASTS = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const own = ".sq-flow *, .sq-detail *, .sq-state, .sq-quiet";
return [...document.querySelectorAll(own)].filter((e) => e.checkVisibility() && !e.closest(".sq-hidden") &&
  [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
    const style = getComputedStyle(e), svg = e.closest("svg");
    const box = svg && e.parentElement.querySelector("rect");
    const back = box ? rgb(getComputedStyle(box).fill) : behind(e);
    const fore = rgb(svg ? style.fill : style.color);
    const [a, b] = [light(fore.slice(0, 3)), light(back.slice(0, 3))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName + "." + e.className + ": " + e.textContent.slice(0, 30)];
  }).filter(([ratio, what]) => ratio < 4.5 && !/^(title|desc)/.test(what)).map((found) => found.join(" "));
"""

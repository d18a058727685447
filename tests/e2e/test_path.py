"""From an alert on lag to the end of it: what docs/operations.md describes, with its screenshots.

SIGNALQ_SCREENSHOTS=docs/images pytest tests/e2e/test_path.py -n 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save

from signalq import Created, async_receiver
from signalq.queryset import State
from tests.steps import outbox, work
from tests.testapp.models import Author, Book

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Page

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.timeout(180)]


class MailServer:
    """What the handler talks to."""

    away = True

    def send(self, address: str) -> None:
        if self.away:
            raise ConnectionRefusedError("[Errno 111] Connection refused: mail.example:25")


@pytest.fixture
def mail() -> MailServer:
    """A small shop whose mail server is away."""
    mail = MailServer()

    @async_receiver(post_save, sender=Author, name="shop.receivers.send_welcome", max_retries=1, retry_backoff=0)
    def send_welcome(instance: Author, **kwargs: Any) -> None:
        mail.send(instance.email)

    @async_receiver(post_save, sender=Author, name="accounts.receivers.create_profile", when=Created())
    def create_profile(**kwargs: Any) -> None: ...

    @async_receiver(post_save, sender=Book, name="search.receivers.index_book", queue="search")
    def index_book(**kwargs: Any) -> None: ...

    with transaction.atomic():
        for number in range(12):
            author = Author.objects.create(name=f"Ada {number}", email=f"ada{number}@example.com")
            Book.objects.create(title=f"Notes {number}", author=author)
    work("default")
    outbox("default", state=State.WAITING).update(state=State.QUEUED)
    work("default")
    return mail


def test_from_the_alert_to_done_in_under_ten_clicks(page: Page, mail: MailServer, shots: Path) -> None:
    page.size(1100)
    page.go("/admin/signalq/delivery/flow/")  # where the alert's link leads
    page.says("#sq-sentence", "1 of 3 receivers needs you.")
    page.picture(shots / "1-flow.png", most=760)

    page.click("a.sq-dead-number")
    page.says(".paginator", "Deliveries 1 to 12")
    page.picture(shots / "2-dead-letters.png", most=620)

    page.click("#result_list .field-number a")
    page.says(".sq-attempt", "ConnectionRefusedError: [Errno 111] Connection refused: mail.example:25")
    page.picture(shots / "3-error.png", most=980)

    mail.away = False
    page.click("#replay")
    page.says(".messagelist", "1 delivery is queued again.")
    work("default")  # as a worker does
    page.click(".messagelist a")
    page.says(".sq-sentence", "done")

    page.click_text("shop.receivers.send_welcome")
    page.says("#sq-sentence", "It needs you: 11 dead.")
    page.picture(shots / "4-receiver.png", most=1060)
    page.click_text("Replay all that are dead…")
    page.says(".sq-sentence", "Replay 11 deliveries?")
    page.picture(shots / "5-replay-all.png", most=560)
    page.click_text("Yes, replay")
    page.says(".messagelist", "11 deliveries are queued again.")

    work("default")
    page.wait(lambda: "nothing is dead" in page.text("#sq-sentence"), "the page to see it by itself")
    page.click_text("Flow")
    page.says("#sq-sentence", "All is well: nothing waits.")
    page.picture(shots / "6-done.png", most=760)
    assert set(outbox("default").values_list("state", flat=True)) == {State.DONE}
    assert page.clicks < 10, page.clicks
    assert page.clicks == 8

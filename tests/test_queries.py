"""Capture adds one INSERT to a transaction and nothing else, whatever the receiver's options."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.signals import request_started
from django.db import connections, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.test.utils import CaptureQueriesContext

from signalq import Changed, Created, Sent, async_batch_receiver, async_receiver, muted
from tests.testapp.models import Author, Book, Tag

pytestmark = pytest.mark.usefixtures("temporary_receivers")

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "when Created": {"when": Created()},
    "when Changed": {"when": Changed("name")},
    "when Changed from and to": {"when": Changed("name", from_="first", to="third") | Changed("email")},
    "when Sent": {"when": Sent(created=False) | Created()},
    "when a callable": {"when": lambda instance, **kwargs: instance.name},
    "subclasses": {"subclasses": True},
    "raw": {"raw": True},
    "omit": {"omit": ["update_fields"]},
    "atomic": {"atomic": False},
    "snapshot": {"snapshot": True},
    "snapshot of a field": {"snapshot": ["name"]},
    "coalesce": {"coalesce": 5},
    "ordered": {"ordered": True},
    "ordered by a key": {"ordered": True, "key": "name"},
    "countdown": {"countdown": 5},
    "expires": {"expires": 5},
    "retries": {"max_retries": None, "retry_backoff": 3},
    "queue and limits": {"queue": "mail", "time_limit": 9, "soft_time_limit": 5},
    "results": {"ignore_result": False},
}


def queries(alias: str) -> int:
    """Of one transaction with an insert, an update, and an update of one field."""
    with CaptureQueriesContext(connections[alias]) as context, transaction.atomic(alias):
        author = Author(name="first")
        author.save(using=alias)
        author.name = "second"
        author.save(using=alias)
        author.name = "third"
        author.save(using=alias, update_fields=["name"])
    return len(context)


# pre_save is not sent with what Created and Sent(created=...) look at.
BOTH = [(post_save, name) for name in OPTIONS] + [
    (pre_save, name) for name in OPTIONS if "when" not in OPTIONS[name] or name == "when Changed"
]


@pytest.mark.parametrize(("signal", "name"), BOTH, ids=lambda value: value if isinstance(value, str) else "")
def test_one_insert_and_nothing_else(alias: str, signal: Any, name: str) -> None:
    before = queries(alias)
    async_receiver(signal, sender=Author, name="counted", **OPTIONS[name])(lambda **kwargs: None)
    assert queries(alias) == before + 1


def test_a_transient_receiver_adds_nothing(alias: str) -> None:
    before = queries(alias)
    async_receiver(post_save, sender=Author, name="counted", durable=False)(lambda **kwargs: None)
    assert queries(alias) == before


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_a_transient_event_outside_a_transaction_opens_no_connection(alias: str) -> None:
    async_receiver(request_started, name="counted", durable=False)(lambda **kwargs: None)
    connections[alias].close()
    request_started.send(sender=object, environ={})
    assert connections[alias].connection is None


def test_a_batch_receiver_and_ten_others_share_the_insert(alias: str) -> None:
    before = queries(alias)
    async_batch_receiver(post_save, sender=Author, name="batch")(lambda events: None)
    for number in range(10):
        async_receiver(post_save, sender=Author, name=f"counted.{number}")(lambda **kwargs: None)
    assert queries(alias) == before + 1


def test_a_receiver_that_is_muted_or_does_not_want_it_adds_nothing(alias: str) -> None:
    before = queries(alias)
    async_receiver(post_save, sender=Author, name="never", when=lambda **kwargs: False)(lambda **kwargs: None)
    assert queries(alias) == before
    async_receiver(post_save, sender=Author, name="always")(lambda **kwargs: None)
    with muted():
        assert queries(alias) == before


@pytest.mark.parametrize("signal", [post_delete, m2m_changed], ids=["post_delete", "m2m_changed"])
def test_deletions_and_relations(alias: str, signal: Any) -> None:
    def run() -> int:
        book = Book.objects.using(alias).create(title="Notes")
        tag = Tag.objects.using(alias).create(name="tag")
        # A synchronous receiver, so that Django does not take the fast way that it has without any.
        signal.connect(_quiet, sender=sender)
        with CaptureQueriesContext(connections[alias]) as context, transaction.atomic(alias):
            book.tags.add(tag)
            tag.delete()
        signal.disconnect(_quiet, sender=sender)
        return len(context)

    sender = Tag if signal is post_delete else Book.tags.through
    before = run()
    async_receiver(signal, sender=sender, name="counted")(lambda **kwargs: None)
    assert run() == before + 1


def _quiet(**kwargs: Any) -> None: ...

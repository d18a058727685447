"""Odd values on every database: carried losslessly, in an event and beside it in columns; no send fails for them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.signals import user_login_failed
from django.db import DataError, connections, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import Signal
from django.test import RequestFactory

from signalq import async_receiver
from tests.steps import outbox, states, work
from tests.test_codec import identical
from tests.testapp.models import Author, Code, Ticket

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.fault(32)]

happened = Signal()
ODD_TEXT = {
    "nul": "a\x00b",
    "lone surrogate": "a\ud800",
    "two surrogates": "\ud800\udc00",
    "its escape": "\\u0000 \\ud800",
    "line ends": "\r\n\u2028\x85\ufeff",
    "tag": "$",
    "long": "\U0001f600" * 5_000,
}
ODD_NUMBERS = {
    "nan": float("nan"),
    "infinity": float("-inf"),
    "minus zero": -0.0,
    "1e16": 1e16,
    "65 bits": 1 << 64,
    "beyond Python's limit of digits": -(10**5_000),
}
ODD = {**ODD_TEXT, **ODD_NUMBERS}
each_text = pytest.mark.parametrize("odd", ODD_TEXT.values(), ids=ODD_TEXT)
each = pytest.mark.parametrize("odd", ODD.values(), ids=ODD)


class Nobody:
    """A backend that knows nobody: Django's own asks the database, and PostgreSQL refuses a NUL."""

    def authenticate(self, request: Any, username: Any = None, password: Any = None) -> None:
        return None


@each
def test_a_failed_login_is_carried_as_it_was_typed(alias: str, odd: Any, settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Nobody"]
    got: list[Any] = []

    @async_receiver(user_login_failed, name="odd.login", using=alias)
    def noted(credentials: Any, request: Any, **kwargs: Any) -> None:
        got.append((credentials["username"], request.path, request.META["HTTP_USER_AGENT"]))

    request = RequestFactory().post("/login")
    request.path = request.META["HTTP_USER_AGENT"] = str(odd) if isinstance(odd, str) else "/"
    with transaction.atomic(alias):
        authenticate(request, username=odd, password="secret")
    work(alias)
    assert identical(got, [(odd, request.path, request.path)])
    assert states(alias) == [("odd.login", "done", 1)]
    assert "secret" not in outbox(alias).get().payload


def test_a_path_that_is_no_text_is_carried(alias: str) -> None:
    got: list[str] = []

    @async_receiver(happened, name="odd.path", using=alias)
    def noted(request: Any, **kwargs: Any) -> None:
        got.append(request.path)

    request = RequestFactory().get("/%00/%ED%A0%80/%FF")
    happened.send(None, request=request)
    work(alias)
    assert got == [request.path]


@each
def test_sender_and_key_are_any_values(alias: str, odd: Any) -> None:
    """In their columns is a text that finds the same value again, and two values do not meet."""

    @async_receiver(happened, name="odd.ordered", using=alias, ordered=True, key=lambda value, **kwargs: value)
    def noted(**kwargs: Any) -> None: ...

    sender = odd if isinstance(odd, str) else None
    for value in (odd, odd, f"another than {type(odd).__name__}"):
        with transaction.atomic(alias):
            happened.send(sender, value=value)
    first, second, third = outbox(alias)
    assert first.key == second.key != third.key
    assert first.sender == second.sender
    for _ in range(3):
        work(alias)
    assert states(alias) == [("odd.ordered", "done", 1)] * 3


@each
def test_an_instance_with_an_odd_primary_key_is_told(alias: str, odd: Any) -> None:
    """Not every database would store it; one that is unsaved there, or no longer, may be told all the same."""
    got: list[Any] = []

    @async_receiver(happened, name="odd.pk", using=alias, snapshot=True)
    def noted(instance: Any, **kwargs: Any) -> None:
        got.append(instance.name)

    author = Author(pk=odd, name=str(odd) if isinstance(odd, str) else "name")
    author._state.db, author._state.adding = alias, False
    with transaction.atomic(alias):
        happened.send(Author, instance=author)
    work(alias)
    assert got == [author.name]
    assert states(alias) == [("odd.pk", "done", 1)]


@pytest.mark.parametrize("odd", ["a\x00b", "a\nb", "\U0001f600"])
def test_a_row_with_an_odd_key_is_loaded_and_deleted(alias: str, odd: str) -> None:
    if "\x00" in odd and connections[alias].vendor == "postgresql":
        # PostgreSQL refuses such a row, and its error has to be the one that is seen.
        with pytest.raises(DataError, match="NUL"):
            Ticket.objects.using(alias).create(code=Code(odd))
        assert states(alias) == []
        return
    got: list[Any] = []

    @async_receiver([post_save, post_delete], sender=Ticket, name="odd.row")
    def noted(instance: Ticket, **kwargs: Any) -> None:
        got.append(instance.pk)

    ticket = Ticket.objects.using(alias).create(code=Code(odd))
    work(alias)
    ticket.delete()
    work(alias)
    assert got == [Code(odd)] * 2
    assert states(alias) == [("odd.row", "done", 1)] * 2


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Mute(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


ERRORS = {
    "nul": ValueError("a\x00b"),
    "lone surrogate": ValueError("a\ud800"),
    "huge": ValueError("x" * 5_000_000 + "\x00"),
    "an integer without text": ValueError(10**5_000),
    "a key without text": KeyError(10**5_000),
    "__str__ raises": Unspeakable(),
    "__str__ returns none": Mute(),
    "odd name": type("Odd", (Exception,), {"__qualname__": "Odd\x00\ud800"})("text"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(("retries", "state"), [(0, "dead"), (1, "waiting")])
def test_an_error_is_settled_whatever_it_says(alias: str, error: Exception, retries: int, state: str) -> None:
    @async_receiver(happened, name="odd.error", using=alias, max_retries=retries)
    def fails(**kwargs: Any) -> None:
        raise error

    happened.send(None)
    work(alias)
    assert states(alias) == [("odd.error", state, 1)]
    (told,) = outbox(alias).get().errors
    assert type(error).__name__[:3] in told["type"]
    assert told["message"]
    assert len(told["message"]) <= 1_000
    assert told["traceback"]

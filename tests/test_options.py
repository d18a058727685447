"""The options of `async_receiver`: how they are read, and what is said of wrong ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from django.db.models.signals import post_save
from django.dispatch import Signal

from signalq import Created, RegistrationError, async_receiver, options
from signalq.options import Options, OptionsDict
from signalq.receivers import registry
from tests.testapp.models import Stamped

pytestmark = pytest.mark.usefixtures("temporary_receivers")

paid = Signal()


def handler(**kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("option", "nearest"),
    [("snder", "sender"), ("max_retry", "max_retries"), ("dispatch_id", "dispatch_uid"), ("time_limt", "time_limit")],
)
def test_an_unknown_option_names_the_nearest_known_one(option: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"unknown option '{option}'; did you mean '{nearest}'"):
        async_receiver(paid, **{option: 1})  # type: ignore[arg-type]


def test_an_unknown_option_like_no_other_names_them_all() -> None:
    with pytest.raises(TypeError, match="unknown option 'zzz'; known: sender, when"):
        async_receiver(paid, zzz=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"name": "x", "dispatch_uid": "y"}, RegistrationError, "dispatch_uid='y' contradicts name='x'"),
        ({"durable": False, "atomic": True}, RegistrationError, r"durable=False contradicts atomic="),
        (
            {"durable": False, "ordered": True},
            RegistrationError,
            "durable=False contradicts ordered=True and coalesce=",
        ),
        ({"durable": False, "coalesce": 0}, RegistrationError, "durable=False contradicts ordered=True and coalesce="),
        ({"time_limit": 5, "soft_time_limit": 5}, RegistrationError, "soft_time_limit=5 contradicts time_limit=5"),
        ({"expires": 60, "countdown": 60}, RegistrationError, "expires=60 contradicts countdown=60: it would always"),
        ({"expires": timedelta(0)}, RegistrationError, "expires=0 contradicts countdown=0"),
        ({"name": ""}, TypeError, "name='' must be a text, and not an empty one"),
        ({"name": 5}, TypeError, "name=5 must be a text"),
        ({"name": "x" * 256}, RegistrationError, "1 to 255 printable characters"),
        ({"name": "two\nlines"}, RegistrationError, "printable"),
        ({"aliases": [""]}, RegistrationError, "printable"),
        ({"aliases": "old"}, TypeError, r"aliases='old' must be a list: write aliases=\['old'\]"),
        ({"aliases": None}, TypeError, "aliases=None must be a list of texts; None is none"),
        ({"omit": "instance"}, TypeError, r"write omit=\['instance'\]"),
        ({"omit": [5]}, TypeError, r"omit=\[5\] must be a list of texts; 5 is none"),
        ({"autoretry_for": ["ValueError"]}, TypeError, "must be a list of exception classes; 'ValueError' is none"),
        ({"dont_autoretry_for": [int]}, TypeError, "must be a list of exception classes"),
        ({"when": True}, TypeError, "when=True is not callable"),
        ({"when": Created}, TypeError, r"when=Created is a class: write Created\(\)"),
        ({"raw": 1}, TypeError, "raw=1 must be True or False"),
        ({"durable": None}, TypeError, "durable=None must be True or False"),
        ({"retry_jitter": "yes"}, TypeError, "retry_jitter='yes' must be True or False"),
        ({"using": 5}, TypeError, "using=5 must be a text"),
        ({"queue": ""}, TypeError, "queue='' must be a text, and not an empty one"),
        ({"countdown": -1}, TypeError, "countdown=-1 must be seconds or a timedelta, at least 0"),
        ({"countdown": None}, TypeError, "countdown=None must be seconds"),
        ({"countdown": True}, TypeError, "countdown=True must be seconds"),
        ({"countdown": float("nan")}, TypeError, "must be seconds"),
        ({"countdown": timedelta(-1)}, TypeError, "at least 0"),
        ({"retry_backoff_max": float("inf")}, TypeError, "must be seconds"),
        ({"time_limit": "5"}, TypeError, "time_limit='5' must be seconds"),
        ({"max_retries": -1}, TypeError, "max_retries=-1 must be a whole number from 0, or None for ever"),
        ({"max_retries": 1.5}, TypeError, "must be a whole number"),
        ({"max_retries": True}, TypeError, "must be a whole number"),
        ({"sender": []}, TypeError, r"sender=\[\] is an empty list"),
    ],
)
def test_what_contradicts_or_is_of_the_wrong_kind(given: Any, error: type[Exception], message: str) -> None:
    before = set(registry)
    with pytest.raises(error, match=message):
        async_receiver(paid, **given)(handler)
    assert set(registry) == before


@pytest.mark.parametrize(
    ("sender", "error", "message"),
    [
        ("Author", TypeError, r"sender='Author' is no model: write \"app_label.Model\""),
        ("a.b.c", TypeError, "is no model"),
        (Stamped, RegistrationError, "sender=Stamped is abstract, .* list its children"),
    ],
)
def test_a_sender_that_sends_no_model_signal(sender: Any, error: type[Exception], message: str) -> None:
    before = set(registry)
    with pytest.raises(error, match=message):
        async_receiver(post_save, sender=sender)(handler)
    assert set(registry) == before


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"countdown": timedelta(minutes=1)}, {"countdown": 60.0}),
        ({"retry_backoff": True}, {"retry_backoff": 1.0}),
        ({"time_limit": timedelta(minutes=1), "soft_time_limit": None}, {"time_limit": 60.0, "soft_time_limit": None}),
        ({"autoretry_for": KeyError}, {"autoretry_for": (KeyError,)}),
        ({"omit": {"a"}}, {"omit": ("a",)}),
        ({"max_retries": None}, {"max_retries": None}),
        ({"max_retries": 0}, {"max_retries": 0}),
    ],
)
def test_values_as_they_are_read(given: Any, read: dict[str, Any]) -> None:
    receiver = async_receiver(paid, **given)(handler)
    for name, value in read.items():
        assert getattr(receiver.options, name) == value
        assert type(getattr(receiver.options, name)) is type(value)


def test_retry_options_become_the_policy() -> None:
    policy = async_receiver(paid, max_retries=3, retry_backoff=2, retry_jitter=False)(handler).policy
    assert (policy.max_retries, policy.backoff, policy.jitter) == (3, 2.0, False)


def test_options_for_people_and_for_type_checkers_agree() -> None:
    declared = set(OptionsDict.__annotations__)
    assert declared - {"dispatch_uid", "weak"} == set(Options.__dataclass_fields__)
    assert get_type_hints(Options).keys() == set(Options.__dataclass_fields__)
    assert Options() == options.read({})

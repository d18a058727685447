"""The settings: live, and refused with the way out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from signalq import conf


def test_the_defaults() -> None:
    with override_settings(SIGNALQ=None):
        assert conf.current() == conf.Settings()
    with override_settings(SIGNALQ={}):
        assert conf.current() == conf.Settings()
    with override_settings():
        from django.conf import settings

        del settings.SIGNALQ
        assert conf.current() == conf.Settings()


def test_they_are_live(settings: Any) -> None:
    before = conf.current()
    with override_settings(SIGNALQ={"CHUNK": 7}):
        assert conf.current().CHUNK == 7
        with override_settings(SIGNALQ={"CHUNK": 8}):
            assert conf.current().CHUNK == 8
        assert conf.current().CHUNK == 7
    assert conf.current() == before
    settings.SIGNALQ = {"MAX_DEPTH": 3}
    settings.SIGNALQ["MAX_DEPTH"] = 4  # in place
    assert conf.current().MAX_DEPTH == 4


def test_they_are_read_once() -> None:
    with override_settings(SIGNALQ={"CHUNK": 7}):
        assert conf.current() is conf.current()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("RELAY", False, False),
        ("LEASE", 5, 5.0),
        ("LEASE", timedelta(minutes=1), 60.0),
        ("GRACE", 0, 0.0),
        ("RETAIN_DONE", timedelta(days=2), 172_800.0),
        ("CHUNK", 1, 1),
        ("MAX_DEPTH", 0, 0),
    ],
)
def test_values(name: str, value: Any, read: Any) -> None:
    with override_settings(SIGNALQ={name: value}):
        got = getattr(conf.current(), name)
    assert (got, type(got)) == (read, type(read))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"MAX_PAYLOD": 1}, r"SIGNALQ has no setting 'MAX_PAYLOD'\. Did you mean 'MAX_PAYLOAD'\?"),
        ({"lease": 1}, r"no setting 'lease'\. Did you mean 'LEASE'\?"),
        ({"COLOUR": 1}, r"no setting 'COLOUR'\. Known: RELAY, PUBLISH,"),
        ({5: 1}, r"no setting 5\."),
        ({"RELAY": 1}, r"'RELAY'\] must be True or False, not 1"),
        ({"RELAY": "yes"}, r"must be True or False, not 'yes'"),
        ({"LEASE": "20"}, r"'LEASE'\] must be seconds or a timedelta, at least 0\.1, not '20'"),
        ({"LEASE": True}, r"must be seconds or a timedelta"),
        ({"LEASE": None}, r"must be seconds or a timedelta"),
        ({"LEASE": 0}, r"at least 0\.1, not 0"),
        ({"LEASE": float("nan")}, r"must be seconds"),
        ({"GRACE": float("inf")}, r"must be seconds"),
        ({"GRACE": -1}, r"at least 0, not -1"),
        ({"GRACE": timedelta(seconds=-1)}, r"at least 0, not -1\.0"),
        ({"CHUNK": 1.5}, r"'CHUNK'\] must be a whole number, at least 1, not 1\.5"),
        ({"CHUNK": 0}, r"at least 1, not 0"),
        ({"CHUNK": timedelta(1)}, r"must be a whole number"),
        (["CHUNK"], r"SIGNALQ must be a dict, not list"),
        ([], r"SIGNALQ must be a dict, not list"),
        ("", r"SIGNALQ must be a dict, not str"),
    ],
)
def test_what_is_wrong_is_refused_each_time(given: Any, message: str) -> None:
    with override_settings(SIGNALQ=given):
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match=message):
                conf.current()

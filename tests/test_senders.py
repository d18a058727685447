"""Which senders a receiver means: children, proxies, abstract bases, names, and what is said of a name that is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.apps import apps
from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import Signal
from django.test import override_settings

from signalq import RegistrationError, async_receiver, naming
from signalq.checks import project
from tests.steps import outbox
from tests.testapp.models import Author, Book, BookProxy, Ebook, Letter, Stamped, Tag

pytestmark = pytest.mark.usefixtures("temporary_receivers")

paid = Signal()


def handler(**kwargs: Any) -> None: ...


def senders(alias: str) -> list[str]:
    return list(outbox(alias).values_list("sender", flat=True))


def save_all(alias: str) -> None:
    for instance in (Book(title="a"), BookProxy(title="b"), Ebook(title="c"), Letter(), Author(name="d")):
        instance.save(using=alias)


@pytest.mark.parametrize("sender", [Book, "testapp.Book", "testapp.book"])
def test_a_class_alone_is_itself_alone_as_in_django(alias: str, sender: Any) -> None:
    async_receiver(post_save, sender=sender, name="x")(handler)
    save_all(alias)
    assert senders(alias) == ["testapp.book"]


@pytest.mark.parametrize("sender", [Book, "testapp.Book", [Ebook, "testapp.Book"]])
def test_with_subclasses_children_and_proxies_too(alias: str, sender: Any) -> None:
    receiver = async_receiver(post_save, sender=sender, subclasses=True, name="x")(handler)
    save_all(alias)
    assert senders(alias) == ["testapp.book", "testapp.bookproxy", "testapp.ebook"]
    receiver.disconnect()
    assert not any(post_save.has_listeners(model) for model in (Book, BookProxy, Ebook))
    receiver.connect()
    receiver.connect()
    Ebook(title="again").save(using=alias)
    assert senders(alias)[3:] == ["testapp.ebook"]


@pytest.mark.parametrize("sender", [Stamped, "testapp.Stamped"])
def test_an_abstract_base(alias: str, sender: Any) -> None:
    async_receiver(post_save, sender=sender, subclasses=True, name="x")(handler)
    save_all(alias)
    assert senders(alias) == ["testapp.letter"]
    assert project.check_senders() == []


def test_deleting_a_child_is_deleting_its_parent_too(alias: str) -> None:
    ebook = Ebook.objects.using(alias).create(title="a")
    async_receiver(post_delete, sender=Book, subclasses=True, name="x")(handler)
    ebook.delete()
    assert sorted(senders(alias)) == ["testapp.book", "testapp.ebook"]


@pytest.fixture
def defined_later() -> Any:
    """A model that is defined when its receiver is there already, and forgotten afterwards."""
    names: list[str] = []

    def define(base: type[models.Model], **meta: Any) -> type[models.Model]:
        options = {"app_label": "testapp", **meta}
        names.append("later")
        return type("Later", (base,), {"__module__": __name__, "Meta": type("Meta", (), options)})

    yield define
    for name in names:
        apps.all_models["testapp"].pop(name, None)
    apps.clear_cache()


@pytest.mark.parametrize("base", [Book, "testapp.Book"])
def test_a_model_that_is_defined_later(alias: str, base: Any, defined_later: Any) -> None:
    async_receiver(post_save, sender=base, subclasses=True, name="x")(handler)
    off = async_receiver(post_save, sender=base, subclasses=True, name="off")(handler)
    off.disconnect()
    later = defined_later(Book, proxy=True)
    later(title="a").save(using=alias)
    assert senders(alias) == ["testapp.later"]


def test_historical_models_are_no_children(defined_later: Any) -> None:
    async_receiver(post_save, sender=Book, subclasses=True, name="x")(handler)
    historical = defined_later(Book, proxy=True, apps=Apps())
    assert not post_save.has_listeners(historical)


def test_the_model_between_two(alias: str) -> None:
    async_receiver(m2m_changed, sender=Book.tags.through, name="by_class")(handler)
    async_receiver(m2m_changed, sender="testapp.Book_tags", name="by_name")(handler)
    Book.objects.using(alias).create(title="a").tags.add(Tag.objects.using(alias).create(name="b"))
    assert set(outbox(alias).values_list("receiver", "sender")) == {
        ("by_class", "testapp.book_tags"),
        ("by_name", "testapp.book_tags"),
    }


def test_the_user_model_by_its_setting(alias: str) -> None:
    async_receiver(post_save, sender=settings.AUTH_USER_MODEL, name="x")(handler)
    User.objects.db_manager(alias).create_user("ada")
    assert senders(alias) == ["auth.user"]


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        (None, "subclasses=True needs sender="),
        ("text", 'write "app_label.Model"'),
        (object(), "subclasses=True is for models"),
        ([Book, int], "subclasses=True is for models, and sender=<class 'int'> is none"),
    ],
)
def test_what_has_no_subclasses(sender: Any, message: str) -> None:
    with pytest.raises((RegistrationError, TypeError), match=message):
        async_receiver(paid, sender=sender, subclasses=True)


@override_settings(AUTH_USER_MODEL="testapp.Author")
def test_a_model_that_is_swapped_out_says_what_to_write() -> None:
    with pytest.raises(RegistrationError, match=r"swapped out for testapp\.Author.*settings\.AUTH_USER_MODEL"):
        async_receiver(post_save, sender=User)
    async_receiver(post_save, sender="auth.User", name="x")(handler)
    (error,) = project.check_senders()
    assert error.hint == "It is swapped out: write sender=settings.AUTH_USER_MODEL."


@pytest.mark.parametrize(
    ("sender", "hint"),
    [
        ("testap.Book", r"no app 'testap' in INSTALLED_APPS; did you mean 'testapp'\?"),
        ("zzz.Book", r"no app 'zzz' in INSTALLED_APPS; known: admin, auth, "),
        ("testapp.Bok", r"no model 'Bok' in testapp; did you mean 'Book'\?"),
        ("testapp.Zzz", r"no model 'Zzz' in testapp; known: Author, Book, "),
        ("testapp.Stamped", r"An abstract base needs subclasses=True\.$"),
        (["testapp.Book", "testapp.Bok"], r"did you mean 'Book'\?"),
    ],
)
def test_a_sender_that_never_appears(sender: Any, hint: str) -> None:
    async_receiver(post_save, sender=sender, name="never_runs")(handler)
    (error,) = project.check_senders()
    assert error.id == "signalq.E002"
    assert "never_runs will never run for sender='" in error.msg
    assert error.level == 40
    assert re.search(hint, str(error.hint))


def test_senders_that_are_there_or_need_not_be() -> None:
    async_receiver(post_save, sender=["testapp.book", Author, settings.AUTH_USER_MODEL], name="x")(handler)
    async_receiver(paid, sender="any.text", name="y")(handler)
    assert project.check_senders() == []


def test_a_database_that_is_none() -> None:
    async_receiver(post_save, using="default", name="x")(handler)
    async_receiver(post_save, using="defualt", name="y")(handler)
    (warning,) = project.check_aliases()
    assert (warning.id, warning.level) == ("signalq.W001", 30)
    assert "y has using='defualt', which is not in DATABASES" in warning.msg
    assert "default" in str(warning.hint)


# A signal that several modules hold has the name of one of them: of which, may differ between processes.

OTHERS = {"shop.signals.paid": paid, "shop.signals.sent": Signal()}


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("shop.signals.paid", OTHERS, paid),
        (f"{__name__}.paid", OTHERS, paid),
        ("not_loaded.here.paid", OTHERS, paid),
        ("not_loaded.here.lost", OTHERS, None),
        (f"{__name__}.handler", OTHERS, None),
        (f"{__name__}.handler", {"shop.signals.renamed": paid}, paid),
        ("not_loaded.here.paid", {"a.paid": paid, "b.paid": Signal()}, None),
    ],
)
def test_a_signal_is_recognized_by_the_name_that_another_process_gave_it(name: str, known: Any, found: Any) -> None:
    assert naming.signal_of(name, known) is found


def test_the_class_of_none_can_send() -> None:
    assert naming.find(str(naming.global_name(type(None)))) is type(None)

"""The public face of `async_receiver`, without a database."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.apps.registry import Apps
from django.core.signals import setting_changed
from django.db import models
from django.db.backends.signals import connection_created
from django.db.models.signals import class_prepared, post_delete, post_init, post_save, pre_init
from django.dispatch import Signal

from signalq import AsyncReceiver, Created, RegistrationError, Sent, async_receiver, capture, receivers
from signalq.receivers import registry
from tests.testapp.models import Author, Book, Tag

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("temporary_receivers")

paid = Signal()
shipped = Signal()


def handler(**kwargs: Any) -> Any:
    """What a user has written."""
    return kwargs


def other(**kwargs: Any) -> None: ...


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the receivers for which something was captured."""
    names: list[str] = []

    def note(signal: Any, sender: Any, kwargs: Any, receivers: Any) -> tuple[()]:
        names.extend(receiver.name for receiver in receivers)
        return ()

    monkeypatch.setattr(capture, "capture", note)
    return names


def saved(sender: type[models.Model] = Author) -> None:
    post_save.send(sender, instance=sender(), created=True, raw=False, using="default", update_fields=None)


def test_the_default_name_is_the_function_s_place() -> None:
    receiver = async_receiver(paid)(handler)
    assert isinstance(receiver, AsyncReceiver)
    assert receiver.name == "tests.test_receivers.handler"
    assert registry["tests.test_receivers.handler"] is receiver
    assert repr(receiver) == "<AsyncReceiver tests.test_receivers.handler>"


@pytest.mark.parametrize(
    "options",
    [{"name": "x"}, {"dispatch_uid": "x"}, {"name": None, "dispatch_uid": "x"}, {"name": "x", "dispatch_uid": "x"}],
)
def test_a_name_of_its_own(options: Any) -> None:
    assert async_receiver(paid, **options)(lambda **kwargs: None).names == ("x",)


def test_a_dispatch_uid_that_is_no_text() -> None:
    assert async_receiver(paid, dispatch_uid=0)(handler).name == "0"  # type: ignore[arg-type]


def test_aliases_are_names_too() -> None:
    receiver = async_receiver(paid, name="new", aliases=["old", "older"])(handler)
    assert registry["old"] is registry["older"] is registry["new"] is receiver
    assert registry.all().count(receiver) == 1
    registry.remove(receiver)
    assert not {"old", "older", "new"} & set(registry)


def test_weak_false_is_accepted_and_weak_true_refused() -> None:
    async_receiver(paid, weak=False)(handler)
    with pytest.raises(RegistrationError, match="weak=True is refused"):
        async_receiver(paid, weak=True)


class Callable:
    def __call__(self, **kwargs: Any) -> None: ...


def local() -> Any:
    def inside(**kwargs: Any) -> None: ...

    return inside


@pytest.mark.parametrize(
    "nameless", [lambda **kwargs: None, local(), functools.partial(handler, a=1), Callable()], ids=type
)
def test_what_no_worker_could_find_needs_a_name(nameless: Any) -> None:
    with pytest.raises(RegistrationError, match=r"no name that a worker could find again .*pass name="):
        async_receiver(paid)(nameless)
    assert async_receiver(paid, name="named")(nameless).name == "named"


def test_what_is_no_handler_is_refused() -> None:
    with pytest.raises(TypeError, match="decorates a function, not 5"):
        async_receiver(paid, name="five")(5)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match=r"local.<locals>.strict must accept \*\*kwargs"):

        def local() -> None:
            def strict(instance: Any) -> None: ...

            async_receiver(paid, name="strict")(strict)

        local()


def test_two_receivers_of_one_name() -> None:
    async_receiver(paid, name="one")(handler)
    with pytest.raises(RegistrationError, match=r"named 'one': .*test_receivers.py:\d+ and .*:\d+\. Give one of them"):
        async_receiver(paid, name="one")(other)
    with pytest.raises(RegistrationError, match="named 'one'"):
        async_receiver(paid, name="two", aliases=["one"])(other)
    assert "two" not in registry
    with pytest.raises(RegistrationError, match="pass a list of signals"):
        async_receiver(shipped, name="one")(handler)


@pytest.mark.parametrize("again", [handler, "the receiver itself"])
def test_registering_twice_is_registering_once(again: Any, captured: list[str]) -> None:
    def decorate(function: Any) -> Any:
        return async_receiver(post_save, sender=Author, when=Created() & ~Sent(raw=True), omit=["raw"])(function)

    first = decorate(handler)
    assert decorate(first if isinstance(again, str) else again) is first
    saved()
    assert captured == ["tests.test_receivers.handler"]


def test_a_module_that_is_imported_again_replaces_its_receivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured: list[str]
) -> None:
    source = tmp_path / "reloaded_receivers.py"
    text = (
        "from django.db.models.signals import post_save\nfrom signalq import async_receiver\n"
        "@async_receiver(post_save, sender='testapp.Author', {options})\ndef f(**kwargs): return {answer}\n"
    )
    source.write_text(text.format(options="aliases=['old']", answer=1))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_receivers")
    try:
        first = module.f
        source.write_text(text.format(options="", answer=22))
        importlib.reload(module)
        assert registry["reloaded_receivers.f"] is module.f is not first
        assert module.f() == 22
        assert "old" not in registry
        saved()
        assert captured == ["reloaded_receivers.f"]
        registry.remove(first)  # it is no longer there: nothing happens
        assert registry["reloaded_receivers.f"] is module.f
    finally:
        del sys.modules["reloaded_receivers"]


def test_a_failed_replacement_changes_nothing(captured: list[str]) -> None:
    def make(**options: Any) -> Any:
        return async_receiver(post_save, sender=Author, name="mine", **options)(lambda **kwargs: None)

    mine = make()
    async_receiver(paid, name="taken")(other)
    with pytest.raises(RegistrationError, match="'taken'"):
        make(aliases=["taken"])
    assert registry["mine"] is mine
    saved()
    assert captured == ["mine"]


def test_a_list_of_signals_and_of_senders(captured: list[str]) -> None:
    receiver = async_receiver([post_save, post_delete], sender=[Author, "testapp.Tag"])(handler)
    assert sorted(receiver.signals) == [
        "django.db.models.signals.post_delete",
        "django.db.models.signals.post_save",
    ]
    for sender in (Author, Tag, Book):
        saved(sender)
    post_delete.send(Tag, instance=Tag(), using="default", origin=None)
    assert len(captured) == 3


def test_an_empty_list_of_signals_is_refused() -> None:
    with pytest.raises(TypeError, match="empty list of signals"):
        async_receiver([])


@pytest.mark.parametrize("signal", [handler, "post_save", None, [post_save, 5]])
def test_what_is_no_signal_is_refused(signal: Any) -> None:
    with pytest.raises(TypeError, match="takes a Signal or a list of them, not"):
        async_receiver(signal)


@pytest.mark.parametrize("signal", [pre_init, post_init, class_prepared, connection_created, setting_changed])
def test_refused_signals_say_why(signal: Signal) -> None:
    with pytest.raises(RegistrationError, match=r"^django\.\S+\.\w+ cannot have an async receiver: it is .*use "):
        async_receiver([post_save, signal])


def test_a_custom_signal_is_a_module_level_variable() -> None:
    assert list(async_receiver(paid)(handler).signals) == ["tests.test_receivers.paid"]
    with pytest.raises(RegistrationError, match=r"no module-level variable.* order_paid = Signal\(\)"):
        async_receiver(Signal())(other)


def test_calling_it_runs_the_body_here_and_now() -> None:
    receiver = async_receiver(paid)(handler)
    assert receiver(sender=None, a=1) == {"sender": None, "a": 1}


def test_it_looks_like_the_handler() -> None:
    receiver = async_receiver(paid)(handler)
    assert inspect.signature(receiver) == inspect.signature(handler)
    assert receiver.__doc__ == "What a user has written."
    assert (receiver.__name__, receiver.__module__) == ("handler", __name__)
    assert receiver.__wrapped__ is handler  # type: ignore[attr-defined]


def test_attributes_of_the_handler_s_own_do_no_harm() -> None:
    def marked(**kwargs: Any) -> None: ...

    marked.name = marked.options = marked.signals = marked.connected = marked.mark = "mine"  # type: ignore[attr-defined]
    receiver = async_receiver(paid, name="marked")(marked)
    assert receiver.name == "marked"
    assert receiver.options.durable
    assert receiver.connected is True
    assert receiver.mark == "mine"  # type: ignore[attr-defined]


def test_disconnect_and_connect(captured: list[str]) -> None:
    receiver = async_receiver(post_save, sender=Author, name="switched")(handler)
    assert receiver.disconnect() is True
    assert receiver.disconnect() is False
    assert not post_save.has_listeners(Author)
    saved()
    receiver.connect()
    receiver.connect()
    saved()
    assert captured == ["switched"]


def test_a_sender_by_name_before_its_model_is_there(monkeypatch: pytest.MonkeyPatch, captured: list[str]) -> None:
    apps = Apps()
    monkeypatch.setattr(receivers, "apps", apps)
    one = async_receiver(post_save, sender="testapp.Book", name="one")(handler)
    two = async_receiver(post_save, sender="testapp.Book", name="two")(handler)
    three = async_receiver(post_save, sender="testapp.Book", name="three")(handler)
    two.disconnect()
    three.disconnect()
    three.connect()
    apps.all_models["testapp"]["book"] = Book
    apps.do_pending_operations(Book)
    saved(Book)
    saved(Author)
    assert captured == ["one", "three"]
    one.disconnect()
    saved(Book)
    assert captured == ["one", "three", "three"]


def test_a_model_by_name_for_a_signal_that_is_no_model_signal(captured: list[str]) -> None:
    async_receiver(paid, sender="testapp.Author", name="by_name")(handler)
    paid.send(Author)
    paid.send(Tag)
    assert captured == ["by_name"]


def test_any_object_may_send_a_custom_signal(captured: list[str]) -> None:
    sender = object()
    async_receiver(paid, sender=sender, name="mine")(handler)
    async_receiver(paid, name="any")(other)
    paid.send(sender)
    paid.send("somebody else")
    assert sorted(captured) == ["any", "any", "mine"]


def test_modules_may_be_imported_in_several_threads(captured: list[str]) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def register(number: int) -> None:
            for part in range(20):
                async_receiver(post_save, sender=Author, name=f"{number}.{part}")(lambda **kwargs: None)
                registry.all()

        threads = [threading.Thread(target=register, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    saved()
    assert len(captured) == 160
    assert len(set(registry)) >= 160

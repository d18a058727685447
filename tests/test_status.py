"""`manage.py signalq status`, `receivers`, and the progress of `replay` and `discard`."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.signals import post_delete, post_save

from signalq import Created, async_batch_receiver, async_receiver, queryset
from signalq.commands import replay
from signalq.queryset import State
from tests.steps import outbox
from tests.test_flow_figures import done, record
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.usefixtures("temporary_receivers")
ON_ONE = pytest.mark.parametrize("alias", ["default"], indirect=True)


@pytest.fixture(autouse=True)
def receivers(temporary_receivers: None) -> None:
    async_receiver(post_save, sender=Author, name="st.mails", queue="low", when=Created(), max_retries=3)(handler)


def handler(**kwargs: Any) -> None: ...


def run(*arguments: str, terminal: bool = False) -> str:
    output = StringIO()
    output.isatty = lambda: terminal  # type: ignore[method-assign]
    call_command("signalq", *arguments, stdout=output, no_color=True)
    return output.getvalue()


def status(alias: str, *arguments: str) -> str:
    return run("status", "--database", alias, *arguments)


def test_the_sentence_the_lights_and_a_table(alias: str) -> None:
    record(alias, "st.mails", State.QUEUED, 1_500, due_in=-100)
    done(alias, "st.mails", [5], took=2)
    lines = status(alias).splitlines()
    assert lines[0].startswith("All is well: 1,500 waiting, oldest 1 min, draining ")
    assert [line.split()[0] for line in lines[2:] if line[:1].strip()][:4] == [
        "publisher",
        "broker",
        "workers",
        "relay",
    ]
    head, row = lines[-2:]
    names = "receiver queue waiting queued running retrying dead done 24 h overdue last done p50 p99"
    assert head.split() == names.split()
    # Of so many not all are looked into.
    assert row.split()[:8] == ["st.mails", "low", "0", "1,500", "0", "0+", "0", "1"]
    assert row.endswith("2 s  2 s")


def test_for_programs(alias: str) -> None:
    record(alias, "st.mails", State.DEAD, 2)
    record(alias, "st.mails", State.WAITING, 3, due_in=100)
    done(alias, "st.mails", [5], took=2)
    told = json.loads(status(alias, "--json"))
    assert list(told) == [
        *("sentence", "well", "outstanding", "backlog", "capped", "oldest", "rate", "seconds_left", "databases"),
        *("away", "lights", "queues", "receivers"),
    ]
    assert (told["outstanding"], told["backlog"], told["well"], told["oldest"]) == (3, 0, False, None)
    assert [light["name"] for light in told["lights"]] == ["publisher", "broker", "workers", "relay"]
    (receiver,) = told["receivers"]
    assert (receiver["name"], receiver["dead"], receiver["later"], receiver["known"]) == ("st.mails", 2, 3, True)
    assert (receiver["hours"][-1], receiver["databases"], receiver["trouble"]) == (1, [alias], "2 dead")


@ON_ONE
def test_a_lag_beyond_what_is_allowed_is_an_error(alias: str) -> None:
    record(alias, "st.mails", State.QUEUED, due_in=-400)
    assert status(alias, "--max-lag", "10m")
    with pytest.raises(
        CommandError, match=r"^st\.mails is overdue for 6 min, which is more than 5 min: 1 of 1 receiver"
    ):
        status(alias, "--max-lag", "5m")
    with pytest.raises(CommandError, match="'soon' is no age"):
        status(alias, "--max-lag", "soon")


def test_what_is_parked_is_an_error_with_the_ways_out(alias: str) -> None:
    record(alias, "st.gone", State.QUEUED, 2)
    errors = StringIO()
    with pytest.raises(CommandError, match=r"^2 deliveries are parked\.$"):
        call_command("signalq", "status", "--database", alias, stdout=StringIO(), stderr=errors, no_color=True)
    option = "" if alias == "default" else f" --database {alias}"
    assert "2 deliveries are parked for a receiver unknown here: st.gone." in errors.getvalue()
    assert f"manage.py signalq discard --receiver st.gone{option}." in errors.getvalue()


@ON_ONE
def test_an_alias_that_is_none(alias: str) -> None:
    with pytest.raises(CommandError, match="DATABASES has no 'nowhere'; it has default"):
        status("nowhere")


def listed(*arguments: str) -> list[str]:
    lines = run("receivers", *arguments).splitlines()
    return [line.split()[0] for line in lines[1:]]


def test_who_listens_where_it_is_written_and_what_is_special(settings: Any) -> None:
    line = handler.__code__.co_firstlineno
    head, row = run("receivers").splitlines()
    assert head.split() == ["receiver", "signal", "sender", "queue", "handler", "options"]
    assert row.split(maxsplit=5) == [
        *("st.mails", "post_save", "testapp.Author", "low", f"tests/test_status.py:{line}"),
        "when=Created(), max_retries=3",
    ]


def test_batches_other_conditions_and_the_disconnected() -> None:
    async_batch_receiver(post_delete, name="st.batch", size=7, when=~Created() | _wanted)(lambda events: None)
    async_receiver(post_save, sender=Book, name="st.off", atomic=False)(lambda **kwargs: None).disconnect()
    lines = {line.split()[0]: line for line in run("receivers").splitlines()}
    assert lines["st.batch"].endswith("size=7, when=(~Created() | _wanted)")
    assert " any " in lines["st.batch"]
    assert lines["st.off"].endswith("DISCONNECTED, atomic=False")


def _wanted(**kwargs: Any) -> bool:
    return True


def test_who_listens_to_a_model_or_a_signal() -> None:
    async_receiver(post_delete, name="st.any")(handler_of_any)
    async_receiver(post_save, sender="testapp.Book", name="st.books")(lambda **kwargs: None)
    assert listed("--sender", "testapp.Author") == ["st.any", "st.mails"]
    assert listed("--sender", "testapp.book", "--signal", "post_save") == ["st.books"]
    assert listed("--signal", "django.db.models.signals.post_delete") == ["st.any"]
    assert run("receivers", "--sender", "auth.Group", "--signal", "post_save") == "No receiver listens to that.\n"
    with pytest.raises(CommandError, match=r"There is no model 'testapp\.Autor'.* Did you mean 'testapp\.Author'\?"):
        run("receivers", "--sender", "testapp.Autor")
    with pytest.raises(CommandError, match=r"No receiver listens to a signal 'post_sav'\. Did you mean 'post_save'\?"):
        run("receivers", "--signal", "post_sav")


def handler_of_any(**kwargs: Any) -> None: ...


@ON_ONE
@pytest.mark.parametrize("terminal", [False, True])
def test_replay_and_discard_say_how_far_they_are(alias: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "AT_ONCE", 4)
    monkeypatch.setattr(queryset.DeliveryQuerySet.discard, "__defaults__", (4,))
    record(alias, "st.mails", State.DEAD, 10)
    which = ("--receiver", "st.mails", "--database", alias)
    assert run("replay", "--dry-run", *which) == "10 deliveries on 'default' would be queued again.\n"
    assert outbox(alias, state=State.DEAD).count() == 10
    said = [run("replay", *which, terminal=terminal), run("discard", "--yes", *which, terminal=terminal)]
    for text in said:
        if terminal:
            assert text.startswith(
                "\r[####......] 4 of 10\r[########..] 8 of 10\r[##########] 10 of 10\n10 deliveries are "
            )
        else:
            assert text.startswith("4 of 10\n8 of 10\n10 deliveries are ")
    assert outbox(alias, state=State.DISCARDED).count() == 10


@ON_ONE
def test_a_dry_run_names_what_would_be_left_alone(alias: str) -> None:
    record(alias, "st.mails", State.DEAD)
    record(alias, "st.mails", State.QUEUED, due_in=5)
    dead, queued = outbox(alias).values_list("pk", flat=True)
    with pytest.raises(CommandError, match=f"Neither dead nor discarded, or not there: {queued}"):
        run("replay", "--dry-run", str(dead), str(queued))
    assert outbox(alias, state=State.DEAD).count() == 1

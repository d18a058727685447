"""`manage.py signalq backfill`: each row an event once, however often it is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.models.signals import post_delete, post_save

from signalq import Changed, Created, Sent, async_receiver, codec
from signalq.backfill import PLACE, Backfill, BackfillError
from signalq.models import Delivery
from signalq.relay import Relay
from tests.integration.harness import wait_for
from tests.steps import outbox, work
from tests.testapp.models import Author, Book, BookProxy, Letter, Seat, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.models import Model

pytestmark = pytest.mark.usefixtures("temporary_receivers")

ROOT = Path(__file__).parents[1]


def receive(*senders: Any, name: str = "filled", **options: Any) -> list[dict[str, Any]]:
    """A receiver that keeps what it gets."""
    got: list[dict[str, Any]] = []

    @async_receiver(options.pop("signal", post_save), sender=list(senders) or None, name=name, **options)
    def filled(**kwargs: Any) -> None:
        got.append(kwargs)

    return got


def authors(alias: str, number: int, **fields: Any) -> list[Author]:
    """Rows that nobody was told of."""
    return Author.objects.using(alias).bulk_create([Author(name=f"author {n}", **fields) for n in range(number)])


def backfill(alias: str, *arguments: str, name: str = "filled", **options: Any) -> None:
    call_command("signalq", "backfill", name, "--database", alias, "--yes", "--rate", "inf", *arguments, **options)


def recorded(alias: str) -> list[str]:
    """The object of each delivery."""
    return list(outbox(alias, receiver="filled").values_list("object_pk", flat=True))


def test_each_row_becomes_an_event_as_if_it_were_saved(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    got = receive(Author)
    rows = authors(alias, 25)
    receive(Author, name="another")
    backfill(alias, "--batch", "10")
    assert recorded(alias) == [str(row.pk) for row in rows]
    assert not outbox(alias, receiver="another").exists()
    assert "25 events are recorded for filled, of 25 rows." in capsys.readouterr().out
    work(alias)
    assert [kwargs["instance"] for kwargs in got] == rows
    assert {(kwargs["created"], kwargs["raw"], kwargs["update_fields"]) for kwargs in got} == {(False, False, None)}
    assert {(kwargs["using"], kwargs["sender"], kwargs["signal"]) for kwargs in got} == {(alias, Author, post_save)}
    assert not outbox(alias, receiver=PLACE).exists(), "it is finished, so nothing is to be resumed"


def test_without_yes_nothing_is_done(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    receive(Author)
    authors(alias, 3)
    call_command("signalq", "backfill", "filled", "--database", alias)
    assert f"3 rows of testapp.Author on {alias!r} would become events for filled. --yes" in capsys.readouterr().out
    assert not outbox(alias).exists()


def test_filters(alias: str) -> None:
    receive(Author)
    rows = authors(alias, 3) + authors(alias, 2, counter=5)
    backfill(alias, "--filter", "counter=5")
    assert recorded(alias) == [str(row.pk) for row in rows[3:]]
    outbox(alias).delete()
    backfill(alias, "--filter", "counter__isnull=false", "--filter", f"pk__in={rows[0].pk},{rows[4].pk}")
    assert recorded(alias) == [str(rows[0].pk), str(rows[4].pk)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--filter", "nmae=Ada"], "--filter: Cannot resolve keyword 'nmae' into field. Choices are: .*name"),
        (["--filter", "counter=many"], "--filter: Field 'counter' expected a number but got 'many'"),
        (["--filter", "counter"], "'counter' is no filter: write field=value"),
        (["--filter", "email__isnull=perhaps"], "isnull is true or false"),
        (["--model", "testapp.Tag"], r"filled does not listen to testapp.Tag, only to testapp.Author"),
        (["--model", "testapp.Nobody"], "--model testapp.Nobody: App 'testapp' doesn't have a 'Nobody' model"),
        (["--rate", "0"], "'0' is no rate"),
        (["--batch", "0"], "one row at the least"),
        (["--resume"], "There is nothing to resume"),
    ],
)
def test_what_cannot_be_is_said(every_alias: list[str], arguments: list[str], says: str) -> None:
    receive(Author)
    authors("default", 1)
    with pytest.raises(CommandError, match=says):
        call_command("signalq", "backfill", "filled", "--yes", *arguments)
    assert not outbox("default").exists()


@pytest.mark.parametrize(
    ("options", "arguments", "says"),
    [
        ({"signal": post_delete}, [], "does not listen to post_save"),
        ({"durable": False}, [], "is transient .durable=False."),
        ({"using": "sqlite"}, [], "is for database 'sqlite' alone: add --database sqlite"),
        ({"when": Changed("name")}, [], r"when=Changed\('name'\): what changed cannot be told .* --ignore-when"),
        ({"when": Sent(raw=False) & ~Changed("name")}, ["--created"], "what changed cannot be told"),
        ({"when": Created()}, [], r"when=Created\(\): add --created, or --ignore-when"),
        ({"senders": []}, [], "listens to any model: say which with --model app.Model"),
        ({"senders": [Author, "testapp.Tag"]}, [], "testapp.Author, testapp.Tag: say which with --model"),
    ],
)
def test_receivers_that_cannot_have_one(
    every_alias: list[str], options: dict[str, Any], arguments: list[str], says: str
) -> None:
    receive(*options.pop("senders", [Author]), **options)
    with pytest.raises(CommandError, match=says):
        call_command("signalq", "backfill", "filled", *arguments)


def test_a_receiver_that_is_not_there(every_alias: list[str]) -> None:
    receive(Author)
    with pytest.raises(CommandError, match=r"There is no receiver 'filed'\. Did you mean 'filled'\?"):
        call_command("signalq", "backfill", "filed")


def test_conditions(alias: str) -> None:
    """A callable sees the row; Created is what --created makes it; --ignore-when asks nobody."""
    rows = authors(alias, 4)
    even = {row.pk for row in rows[::2]}
    receive(Author, when=lambda instance, **kwargs: instance.pk in even)
    backfill(alias)
    assert recorded(alias) == [str(row.pk) for row in rows[::2]]
    outbox(alias).delete()
    got = receive(Author, name="made", when=Created())
    backfill(alias, "--created", name="made")
    work(alias)
    assert [kwargs["created"] for kwargs in got] == [True] * 4
    receive(Author, name="changed", when=Changed("name"))
    backfill(alias, "--ignore-when", name="changed")
    assert outbox(alias, receiver="changed").count() == 4


def _model_rows(alias: str, model: type[Model], number: int) -> list[Model]:
    fields: dict[type[Model], Any] = {
        Letter: lambda n: {},
        Seat: lambda n: {"row": "AB"[n % 2], "number": n},
        Ticket: lambda n: {"code": f"code {n:03}"},
        Book: lambda n: {"title": f"book {n}"},
        BookProxy: lambda n: {"title": f"book {n}"},
    }
    return [model._base_manager.using(alias).create(**fields[model](n)) for n in range(number)]


@pytest.mark.parametrize("model", [Letter, Seat, Ticket, Book, BookProxy])
def test_every_kind_of_key(alias: str, model: type[Model]) -> None:
    """UUIDs, composite keys, values that only their field knows, proxies; stopped after each batch."""
    rows = _model_rows(alias, model, 7)
    got = receive(model)
    for _ in range(3):
        run = Backfill(_receiver(), model, alias).run(2)
        assert not [next(run).after].count(None)
        run.close()
    backfill(alias, "--batch", "2", "--resume")
    work(alias)
    assert Counter(str(kwargs["instance"].pk) for kwargs in got) == Counter(str(row.pk) for row in rows)


def _receiver() -> Any:
    from signalq.receivers import registry

    return registry["filled"]


def test_it_resumes_where_it_stopped(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    receive(Author)
    rows = authors(alias, 10)
    run = Backfill(_receiver(), Author, alias).run(4)
    next(run)
    run.close()
    with pytest.raises(CommandError, match=rf"stopped after {rows[3].pk}: --resume goes on, --restart begins anew"):
        backfill(alias)
    backfill(alias, "--resume")
    assert recorded(alias) == [str(row.pk) for row in rows]
    with pytest.raises(CommandError, match="nothing to resume"):
        backfill(alias, "--resume")


def test_it_begins_anew(alias: str) -> None:
    receive(Author)
    rows = authors(alias, 4)
    run = Backfill(_receiver(), Author, alias).run(3)
    next(run)
    run.close()
    backfill(alias, "--restart")
    assert Counter(recorded(alias)) == Counter(str(row.pk) for row in [*rows, *rows[:3]])


def test_other_options_are_another_backfill(alias: str) -> None:
    receive(Author)
    authors(alias, 4)
    run = Backfill(_receiver(), Author, alias).run(3)
    next(run)
    run.close()
    backfill(alias, "--filter", "counter=0")  # nothing of it was begun
    assert outbox(alias, receiver="filled").count() == 3 + 4
    assert outbox(alias, receiver=PLACE).count() == 1


def test_two_at_once_are_one_and_an_error(alias: str) -> None:
    receive(Author)
    rows = authors(alias, 6)
    first, second = (Backfill(_receiver(), Author, alias).run(2) for _ in range(2))
    next(first)
    next(second)  # it has found where the first one was
    with pytest.raises(BackfillError, match="Another process is at this backfill"):
        next(first)
    list(second)
    assert recorded(alias) == [str(row.pk) for row in rows]


def test_a_batch_that_fails_leaves_nothing(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    receive(Author)
    rows = authors(alias, 6)
    run = Backfill(_receiver(), Author, alias).run(2)
    next(run)
    with monkeypatch.context() as patched:
        patched.setattr(type(Delivery.objects.all()), "record", _refused)
        with pytest.raises(OperationalError):
            next(run)
    assert recorded(alias) == [str(row.pk) for row in rows[:2]]
    backfill(alias, "--resume")
    assert recorded(alias) == [str(row.pk) for row in rows]


def _refused(*args: Any) -> None:
    raise OperationalError("the disk is full")


def test_rows_that_come_meanwhile_are_not_its_own(alias: str) -> None:
    receive(Author)
    rows = authors(alias, 4)
    run = Backfill(_receiver(), Author, alias).run(2)
    next(run)
    late = Author(name="late")
    late.save(using=alias)  # captured as any other
    list(run)
    assert Counter(recorded(alias)) == Counter(str(row.pk) for row in [*rows, late])


def test_an_empty_table(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    receive(Author)
    backfill(alias)
    assert "0 events are recorded" in capsys.readouterr().out
    assert not outbox(alias).exists()


def test_where_it_stopped_is_never_pruned_nor_swept(alias: str, settings: Any) -> None:
    settings.SIGNALQ = {**settings.SIGNALQ, "RETAIN_DONE": 0}
    receive(Author)
    authors(alias, 4)
    run = Backfill(_receiver(), Author, alias).run(2)
    next(run)
    run.close()
    Relay([alias]).round()
    place = outbox(alias, receiver=PLACE).get()
    assert (place.state, place.due_at, place.finished_at) == ("done", None, None)
    assert codec.load_event(place.payload).signal == PLACE  # it can be shown as any other


def test_the_rate(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    receive(Author)
    authors(alias, 10)
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr("signalq.commands.backfill.time", clock)
    call_command("signalq", "backfill", "filled", "--database", alias, "--yes", "--rate", "2")
    assert sum(slept) == pytest.approx(5.0)
    assert max(slept) == pytest.approx(1.0), "a batch a second, whatever --batch is"
    assert len(recorded(alias)) == 10


def test_progress_for_a_terminal_and_for_a_file(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    receive(Author)
    authors(alias, 4)
    for stdout, expected in ((Terminal(), 3), (io.StringIO(), 1)):
        backfill(alias, "--batch", "2", "--restart", stdout=stdout)
        assert stdout.getvalue().count(" of 4") - stdout.getvalue().count("of 4 rows") == expected


@pytest.fixture
def process(alias: str) -> Iterator[Any]:
    """The command in a process of its own; `first` is a receiver of the integration tests' shop."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        name = "tests.integration.shop.receivers.first"
        command = [sys.executable, "-m", "django", "signalq", "backfill", name, "--created", "--yes", "--batch", "10"]
        env = {"DJANGO_SETTINGS_MODULE": "tests.integration.settings", "SIGNALQ_TEST_ALIAS": alias}
        popen = subprocess.Popen([*command, *arguments], cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
        started.append(popen)
        return popen

    yield start
    for popen in started:
        popen.kill()
        popen.wait()


def test_each_row_once_also_when_it_is_killed(alias: str, process: Any) -> None:
    rows = authors(alias, 300)
    popen = process("--rate", "200")
    wait_for(lambda: outbox(alias).exclude(receiver=PLACE).count() >= 50, "50 rows")
    popen.kill()
    popen.wait()
    assert 50 <= outbox(alias).exclude(receiver=PLACE).count() < 300
    assert process("--rate", "inf", "--resume").wait(timeout=30) == 0
    found = outbox(alias).values_list("receiver", "object_pk")
    assert Counter(found) == Counter(("tests.integration.shop.receivers.first", str(row.pk)) for row in rows)

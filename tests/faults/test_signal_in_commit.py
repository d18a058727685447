"""An interrupt in the middle of a commit: what is committed is recorded, and nothing else is.

Python runs the handler of a signal between two instructions, so that an exception which it raises (SystemExit as web
servers do, a time limit) comes out of whatever is being executed. The first tests raise it before and after each call
on the way; the last ones send real signals to real processes.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, Error, InterfaceError, connections, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal

from signalq import async_receiver, outbox as recording, publish, wire
from tests.faults.interrupted import end_of_request
from tests.integration.harness import Process, wait_for
from tests.steps import outbox
from tests.testapp.models import Author

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.usefixtures("temporary_receivers"), pytest.mark.timeout(60)]

happened = Signal()
ERRORS: list[type[BaseException]] = [SystemExit, KeyboardInterrupt, TypeError, InterfaceError, DatabaseError]
POINTS = {
    "the INSERT": lambda alias: (connections[alias], "execute_wrappers"),
    "our INSERT's rows": lambda alias: (recording, "_insert"),
    "what is to be published": lambda alias: (recording, "_write"),
    "our note that it is recorded": lambda alias: (hooks(alias), "_record"),
    "Django's commit": lambda alias: (hooks(alias), "_commit"),
    "the COMMIT": lambda alias: (connections[alias], "_commit"),
    "our notes after the commit": lambda alias: (hooks(alias), "_committed"),
    "what we ask in between": lambda alias: (hooks(alias), "_unrecorded"),
    "autocommit": lambda alias: (hooks(alias), "_set_autocommit"),
    "Django's hooks": lambda alias: (connections[alias], "run_and_clear_commit_hooks"),
}


class UndoneError(Exception):
    """Leaves an atomic block by the back door."""


class Shot:
    """Raises `error` at the first call of a method, before or after it has done its work."""

    def __init__(self, target: tuple[Any, str], error: type[BaseException], after: bool) -> None:
        self.owner, self.name = target
        self.error, self.after = error, after
        self.hits = 0

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        patch = pytest.MonkeyPatch()
        if self.name == "execute_wrappers":
            patch.setattr(self.owner, self.name, [self._execute])
        else:
            method = getattr(self.owner, self.name)
            patch.setattr(self.owner, self.name, lambda *args, **options: self._call(method, *args, **options))
        try:
            yield
        finally:
            patch.undo()

    def _execute(self, execute: Any, sql: str, *rest: Any) -> Any:
        insert = sql.startswith("INSERT") and "signalq_delivery" in sql
        return self._call(execute, sql, *rest) if insert else execute(sql, *rest)

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self.hits:
            return method(*args, **options)
        self.hits += 1
        if self.after:
            method(*args, **options)
        raise self.error("in between")


def hooks(alias: str) -> recording.Hooks:
    return connections[alias]._signalq_hooks  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[wire.Item]:
    items: list[wire.Item] = []
    monkeypatch.setattr(publish, "send", items.extend)
    return items


@pytest.fixture
def receivers(temporary_receivers: None, alias: str) -> None:
    async_receiver(post_save, sender=Author, name="noted")(lambda **kwargs: None)
    async_receiver(happened, name="told", durable=False, using=alias)(lambda **kwargs: None)
    with transaction.atomic(alias):
        save(alias, "first")  # the connection is open, and its methods are wrapped


def save(alias: str, name: str) -> None:
    author = Author.objects.using(alias).create(name=name)
    happened.send(None, pk=author.pk)


def unaccounted(alias: str) -> Counter[str]:
    """Rows without a delivery of their own (1), deliveries without a row and doubles (-1)."""
    balance = Counter({str(pk): 1 for pk in Author.objects.using(alias).values_list("pk", flat=True)})
    balance.subtract(outbox(alias).values_list("object_pk", flat=True))
    return Counter({pk: number for pk, number in balance.items() if number})


def interrupted(alias: str, *shots: Shot, undone: bool = False, by: Callable[[], object] = lambda: None) -> None:
    """A transaction that ends under fire."""
    # psycopg says it of a connection whose rollback was interrupted.
    expected = (UndoneError, *(shot.error for shot in shots), *([DatabaseError] if len(shots) > 1 else []))
    with contextlib.ExitStack() as stack, contextlib.suppress(*expected), transaction.atomic(alias):
        save(alias, "cut")
        save(alias, "cut")
        for shot in shots:
            stack.enter_context(shot.armed())
        by()
        if undone:
            raise UndoneError


def check(alias: str, sent: list[wire.Item], what: str) -> None:
    """Nothing of an interrupt is left, and what comes next is whole."""
    end_of_request(alias)
    connection = connections[alias]
    assert connection.run_on_commit == [], what
    assert connection.get_autocommit(), what
    assert not unaccounted(alias), what
    rows, told = outbox(alias).count(), len(transients(sent))
    with transaction.atomic(alias):
        save(alias, "next")
    assert not unaccounted(alias), what
    assert outbox(alias).count() == rows + 1, what
    assert len(transients(sent)) == told + 1 <= Author.objects.using(alias).count(), what
    known = set(outbox(alias).values_list("pk", flat=True))
    assert {item.id for item in sent if isinstance(item, wire.Wake)} <= known, what


def transients(sent: list[wire.Item]) -> list[wire.Message]:
    messages = [item for item in sent if isinstance(item, wire.Message)]
    assert len(messages) == len({item.task_id for item in messages})
    return messages


@pytest.mark.fault(22, 27)
@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_an_exception_at_each_step_of_a_commit(alias: str, point: str, after: bool, sent: list[wire.Item]) -> None:
    for error in ERRORS:
        shot = Shot(POINTS[point](alias), error, after)
        interrupted(alias, shot)
        assert shot.hits, point
        check(alias, sent, f"{error.__name__} {'after' if after else 'before'} {point}")


@pytest.mark.fault(22, 27)
@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["rollback", "_rollback", "validate_no_atomic_block"])
def test_an_exception_in_a_rollback_commits_nothing(
    alias: str, method: str, after: bool, sent: list[wire.Item]
) -> None:
    """Django turns autocommit on after it, which commits what is open on SQLite and MariaDB."""
    before = Author.objects.using(alias).count()
    for number, error in enumerate(ERRORS, start=1):
        shot = Shot((connections[alias], method), error, after)
        interrupted(alias, shot, undone=True)
        assert shot.hits
        check(alias, sent, error.__name__)
        assert Author.objects.using(alias).count() == before + number  # the next of each check


@pytest.mark.fault(22, 27)
@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("second", ["rollback", "_rollback", "_set_autocommit", "_unrecorded"])
@pytest.mark.parametrize("point", POINTS)
def test_a_second_exception_while_the_first_is_dealt_with(
    alias: str, point: str, second: str, sent: list[wire.Item]
) -> None:
    """A supervisor that sends its signal again."""
    for after in (False, True):
        if second in POINTS[point](alias):
            continue
        owner = connections[alias] if hasattr(connections[alias], second) else hooks(alias)
        interrupted(
            alias,
            Shot(POINTS[point](alias), SystemExit, after),
            Shot((owner, second), KeyboardInterrupt, after=not after),
        )
        check(alias, sent, f"{point}, {second}")


@pytest.mark.fault(27)
@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("undone", [False, True])
def test_a_connection_that_is_closed_before_the_commit(alias: str, undone: bool, sent: list[wire.Item]) -> None:
    before = Author.objects.using(alias).count()
    for close in (lambda: connections[alias].connection.close(), lambda: connections[alias].close()):
        with contextlib.suppress(Error):
            interrupted(alias, undone=undone, by=close)
        check(alias, sent, "closed")
    assert Author.objects.using(alias).count() == before + 2
    assert set(Author.objects.using(alias).values_list("name", flat=True)) == {"first", "next"}


@pytest.mark.fault(27, 30)
@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["commit", "_commit", "set_autocommit"])
def test_an_exception_at_the_end_of_a_transaction_by_hand(
    alias: str, method: str, after: bool, sent: list[wire.Item]
) -> None:
    for error in ERRORS:
        transaction.set_autocommit(False, using=alias)
        save(alias, "by hand")
        shot = Shot((connections[alias], method), error, after)
        with contextlib.suppress(error), shot.armed():
            try:
                transaction.commit(using=alias)
            finally:
                transaction.rollback(using=alias)
                transaction.set_autocommit(True, using=alias)
        assert shot.hits
        check(alias, sent, error.__name__)


class Shooting:
    """A process that is interrupted at random times."""

    def __init__(self, alias: str, kind: str, scratch: Path) -> None:
        self.file = scratch / f"sent-{kind}"
        self.file.touch()
        command = [sys.executable, "-m", "tests.faults.interrupted", alias, kind, str(self.file)]
        env = {"DJANGO_SETTINGS_MODULE": "tests.settings"}
        self.process = Process(kind, command, scratch / f"{kind}.log", env, pipe=True)
        assert self._line() == "ready"
        # The first one is slow: it opens the connection.
        self.seconds = [float(self.shot(None).split()[1]) for _ in range(6)][-1]

    def _line(self) -> str:
        assert self.process.popen.stdout is not None
        line = self.process.popen.stdout.readline().decode().strip()
        assert line, self.process.output()
        return line

    def shot(self, delay: float | None) -> str:
        """One request, told to stop after `delay` seconds; how it ended."""
        assert self.process.popen.stdin is not None
        self.process.popen.stdin.write(b"go\n")
        self.process.popen.stdin.flush()
        if delay is not None:
            time.sleep(delay)  # the fault itself: a moment by chance
            self.process.popen.send_signal(signal.SIGTERM)
        return self._line()

    def shots(self, number: int, generator: random.Random) -> Counter[str]:
        return Counter(self.shot(generator.uniform(0, 1.1 * self.seconds)).split()[0] for _ in range(number))


@pytest.fixture
def slow_commits(alias: str) -> Iterator[None]:
    """On PostgreSQL a COMMIT takes a while, so that shots hit it; a deferred constraint is checked in it."""
    if alias != "default":
        yield
        return
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.025); RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON testapp_author DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION slowly()"
        )
    yield
    with connections[alias].cursor() as cursor:
        cursor.execute("DROP TRIGGER slowly ON testapp_author")
        cursor.execute("DROP FUNCTION slowly()")


@pytest.fixture
def shooting(alias: str, slow_commits: None, tmp_path: Path) -> Iterator[Callable[[str], Shooting]]:
    started: list[Shooting] = []

    def start(kind: str) -> Shooting:
        started.append(Shooting(alias, kind, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()


@pytest.mark.fault(22)
@pytest.mark.timeout(300)
def test_sigterm_in_the_middle_of_a_commit(
    alias: str, shooting: Callable[[str], Shooting], long: bool, figures: Callable[..., None]
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201
    generator = random.Random(seed)
    number = 300 if long else 25
    ended = shooting("durable").shots(number, generator)
    assert ended["interrupted"] > (number / 5 if long else 0), ended  # of few shots, few may hit by chance
    with contextlib.suppress(AssertionError):
        # A server may still be at the COMMIT of a connection that was closed on it.
        wait_for(lambda: not unaccounted(alias), "rows and deliveries to be in balance", timeout=10)
    balance = unaccounted(alias)
    rows = Author.objects.using(alias).count()
    control = shooting("control")
    control.shots(number, generator)
    saved = set(Author.objects.using(alias).order_by("pk").values_list("pk", flat=True)[rows:])
    lost = saved - {int(line) for line in control.file.read_text().split()}
    if alias == "default":
        assert lost, "no shot hit a commit"
    figures(seed=seed, shots=number, interrupted=ended["interrupted"], deliveries=outbox(alias).count())
    figures(lost=len(+balance), ghosts=len(-balance), control_lost=len(lost))
    assert not balance, ended

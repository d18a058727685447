"""`manage.py signalq discard`, and `replay` beside it: which deliveries, dry runs, chunks, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F
from django.db.models.functions import Now
from django.db.models.signals import post_save

from signalq import Created, async_receiver, queryset, wire
from signalq.queryset import State
from signalq.receivers import registry
from tests.steps import outbox
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("temporary_receivers")


@pytest.fixture
def author(alias: str, temporary_receivers: None) -> None:
    """Three deliveries for each of two receivers."""
    for name in ("gone", "kept"):
        async_receiver(post_save, sender=Author, when=Created(), name=name)(lambda **kwargs: None)
    for number in range(3):
        Author.objects.using(alias).create(name=str(number))


def run(alias: str, *arguments: str) -> str:
    output = StringIO()
    call_command("signalq", *arguments, "--database", alias, stdout=output, stderr=output)
    return output.getvalue()


def states(alias: str, receiver: str) -> list[str]:
    return list(outbox(alias, receiver=receiver).values_list("state", flat=True))


@pytest.mark.usefixtures("author")
def test_without_yes_it_only_says_what_it_would_do(alias: str) -> None:
    outbox(alias, pk=first(alias, "gone")).update(state=State.DEAD, due_at=None)
    said = run(alias, "discard", "--receiver", "gone")
    assert said.splitlines()[1].split() == ["gone", "0", "2", "0", "0", "1", "0"]
    assert f"3 deliveries on {alias!r} would be discarded. --yes does it." in said
    assert states(alias, "gone") == ["dead", "queued", "queued"]


@pytest.mark.usefixtures("author")
def test_it_discards_by_chunks_with_the_reason_and_keeps_what_is_on_record(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queryset.DeliveryQuerySet.discard, "__defaults__", (2,))
    outbox(alias, pk=first(alias, "gone")).update(state=State.DEAD, due_at=None, errors=[{"type": "Before"}])
    said = run(alias, "discard", "--receiver", "gone", "--yes", "--reason", "no longer \x00 wanted")
    assert "3 deliveries are discarded." in said
    assert states(alias, "gone") == ["discarded"] * 3
    assert states(alias, "kept") == ["queued"] * 3
    errors = list(outbox(alias, receiver="gone").values_list("errors", flat=True))
    assert [[error["type"] for error in kept] for kept in errors] == [["Before", "Discarded"], *[["Discarded"]] * 2]
    assert errors[0][-1]["message"] == "no longer \\x00 wanted"
    assert not outbox(alias, receiver="gone", finished_at=None).exists()
    assert not outbox(alias, receiver="gone", due_at__isnull=False).exists()


def first(alias: str, receiver: str) -> int:
    return int(outbox(alias, receiver=receiver).values_list("pk", flat=True)[0])


@pytest.mark.usefixtures("author")
def test_what_a_worker_holds_is_left_to_it_until_its_lease_is_lost(alias: str) -> None:
    held, lost, _ = outbox(alias, receiver="gone").values_list("pk", flat=True)
    outbox(alias, pk=held).update(state=State.RUNNING, due_at=queryset.after(60))
    outbox(alias, pk=lost).update(state=State.RUNNING, due_at=queryset.after(-1))
    assert "2 deliveries are discarded." in run(alias, "discard", "--receiver", "gone", "--yes")
    assert states(alias, "gone") == ["running", "discarded", "discarded"]
    with pytest.raises(CommandError, match=f"at work, or not there: {held}, 999999999"):
        run(alias, "discard", str(held), "999999999", "--yes")


@pytest.mark.usefixtures("author")
def test_only_what_is_older_than_so_much(alias: str) -> None:
    outbox(alias, pk=first(alias, "gone")).update(created_at=F("created_at") - timedelta(hours=13))
    assert "1 deliveries are discarded." in run(alias, "discard", "--receiver", "gone", "--older-than", "12h", "--yes")
    assert states(alias, "gone") == ["discarded", "queued", "queued"]


@pytest.mark.usefixtures("author")
@pytest.mark.parametrize("command", ["discard", "replay"])
def test_what_is_wrong_is_said_with_the_way_out(alias: str, command: str) -> None:
    with pytest.raises(CommandError, match=r"Did you mean 'gone'\?"):
        run(alias, command, "--receiver", "gonne")
    with pytest.raises(CommandError, match="Say which"):
        run(alias, command)
    with pytest.raises(CommandError, match="'soon' is no age: write 90s, 15m, 12h or 7d"):
        run(alias, command, "--receiver", "gone", "--older-than", "soon")
    assert states(alias, "gone") == ["queued"] * 3


@pytest.mark.usefixtures("author")
def test_what_was_discarded_can_be_replayed(alias: str) -> None:
    run(alias, "discard", "--receiver", "gone", "--yes")
    one = first(alias, "gone")
    assert "0 deliveries are queued again." in run(alias, "replay", "--receiver", "gone"), "dead ones are meant"
    assert "1 deliveries are queued again." in run(alias, "replay", str(one))
    assert "2 deliveries are queued again." in run(alias, "replay", "--receiver", "gone", "--discarded")
    assert states(alias, "gone") == ["queued"] * 3
    assert outbox(alias, receiver="gone", due_at__gt=Now()).count() == 3


@pytest.mark.usefixtures("author")
def test_what_is_parked_is_queued_again_and_nobody_is_woken(alias: str, sent: list[wire.Item]) -> None:
    """A message to a receiver unknown here cannot be made: the publisher would take that for a broken broker."""
    outbox(alias).update(state=State.DEAD, due_at=None, finished_at=Now())
    registry.remove(registry["gone"])
    for name in ("gone", "kept"):
        assert "3 deliveries are queued again." in run(alias, "replay", "--receiver", name)
    assert states(alias, "gone") == ["queued"] * 3
    assert [item.receiver for item in sent] == ["kept"] * 3

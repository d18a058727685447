"""Events for rows that exist already, to one receiver: as if each were saved now.

They go through the same capture and the same INSERT as any other. How far it got is a row of the outbox, too, which is
written in each batch's own transaction: whatever stops it, every row has been an event once or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Model, QuerySet
from django.db.models.functions import Now
from django.db.models.signals import post_save

from . import capture, codec, outbox
from .changes import Changed
from .conditions import Created
from .event import Event, uuid7
from .exceptions import SignalqError
from .fields import primary_key
from .freeze import freeze
from .load import Loader
from .outcomes import again_on_conflict
from .state import State

if TYPE_CHECKING:
    from .models import Delivery
    from .queryset import DeliveryQuerySet
    from .receivers import AsyncReceiver

PLACE = "signalq.backfill"
"""The receiver of the row that tells how far one got. Done, and never pruned as it has no ``finished_at``."""


class BackfillError(SignalqError):
    """This receiver cannot have this backfill, or somebody else is at it."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far it is."""

    rows: int = 0
    """Rows looked at, in this run."""
    events: int = 0
    """Events recorded, in this run."""
    after: Any = None
    """The primary key of the last row; None before the first."""


@dataclasses.dataclass(frozen=True)
class Backfill:
    """Which rows, for whom. Raises BackfillError for what cannot be."""

    receiver: AsyncReceiver[..., Any]
    model: type[Model]
    using: str
    filters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """As for ``QuerySet.filter``."""
    created: bool = False
    """The events say that the row was inserted, not updated."""
    ignore_when: bool = False
    """Also rows that the receiver's ``when=`` would leave out."""

    def __post_init__(self) -> None:
        name, options = self.receiver.name, self.receiver.options
        if post_save not in self.receiver.signals.values():
            raise BackfillError(f"{name} does not listen to post_save, which is what a backfill sends.")
        if not options.durable:
            raise BackfillError(f"{name} is transient (durable=False): nothing would record what it was sent.")
        if options.using not in (None, self.using):
            raise BackfillError(f"{name} is for database {options.using!r} alone: add --database {options.using}.")
        parts = [] if self.ignore_when else list(_parts(options.when))
        if any(isinstance(part, Changed) for part in parts):
            raise BackfillError(
                f"{name} has when={options.when!r}: what changed cannot be told of rows that are there already. "
                "--ignore-when takes every row; --filter chooses among them."
            )
        if not self.created and any(isinstance(part, Created) for part in parts):
            raise BackfillError(f"{name} listens with when=Created(): add --created, or --ignore-when.")

    def rows(self) -> QuerySet[Model]:
        """All of them, by primary key. Raises what ``filter()`` raises."""
        return self.model._base_manager.using(self.using).filter(**self.filters).order_by("pk")

    def place(self) -> Progress | None:
        """Where an earlier run stopped; None if there is nothing to resume."""
        row = self._places().first()
        return Progress(after=_arguments(row)["after"]) if row else None

    def restart(self) -> None:
        """Forget where an earlier run stopped."""
        self._places().delete()

    def run(self, size: int) -> Iterator[Progress]:
        """Record what is left, ``size`` rows in a transaction, and tell after each."""
        progress = self.place() or self._begin()
        while True:
            batch = functools.partial(self._batch, progress, size)
            progress, ended = again_on_conflict(batch)
            yield progress
            if ended:
                return

    def _begin(self) -> Progress:
        # Rows that come later are captured when they are saved.
        last = self.rows().last()
        self._outbox().create(
            event_id=uuid7(),
            receiver=PLACE,
            sender=self.receiver.name,
            key=self._key(),
            state=State.DONE,
            payload=self._payload(None, last and primary_key(last)),
            created_at=Now(),
        )
        return Progress()

    def _batch(self, progress: Progress, size: int) -> tuple[Progress, bool]:
        with transaction.atomic(using=self.using):
            place = self._places().select_for_update().first()
            if place is None or _arguments(place)["after"] != progress.after:
                raise BackfillError("Another process is at this backfill, and has gone on: let it, or stop it first.")
            rows = self._next(progress.after, _arguments(place)["last"], size)
            events = sum(self._capture(row) for row in rows)
            if len(rows) < size:
                self.restart()
            else:
                place.payload = self._payload(primary_key(rows[-1]), codec.load_event(place.payload).arguments["last"])
                place.save(using=self.using, update_fields=["payload"])
        after = rows[-1].pk if rows else progress.after
        return Progress(progress.rows + len(rows), progress.events + events, after), len(rows) < size

    def _next(self, after: Any, last: Any, size: int) -> list[Model]:
        if last is None:
            return []
        rows = self.rows().filter(pk__lte=last)
        return list((rows if after is None else rows.filter(pk__gt=after))[:size])

    def _capture(self, row: Model) -> bool:
        kwargs = {
            "instance": row,
            "created": self.created,
            "update_fields": None,
            "raw": False,
            "using": self.using,
        }
        if not self.ignore_when and not capture.wants(self.receiver, post_save, self.model, kwargs):
            return False
        for pending in capture.capture(post_save, self.model, kwargs, [self.receiver]):
            outbox.add(pending)
        return True

    def _places(self) -> QuerySet[Delivery]:
        return self._outbox().filter(key=self._key(), receiver=PLACE)

    def _outbox(self) -> DeliveryQuerySet:
        from .models import Delivery

        return Delivery.objects.using(self.using)

    def _key(self) -> str:
        """One for each receiver, rows and options."""
        asked = [
            self.receiver.name,
            self.model._meta.label,
            self.created,
            self.ignore_when,
            sorted(self.filters.items()),
        ]
        return "backfill:" + hashlib.sha256(repr(asked).encode()).hexdigest()

    def _payload(self, after: Any, last: Any) -> str:
        return codec.dump_event(Event(uuid7(), PLACE, self.receiver.name, {"after": after, "last": last}), freeze)


def _arguments(place: Delivery) -> dict[str, Any]:
    thaw = Loader().thaw
    return {name: thaw(value) for name, value in codec.load_event(place.payload).arguments.items()}


def _parts(condition: Any) -> Iterator[Any]:
    """``condition`` and all that it is made of."""
    if condition is not None:
        yield condition
        for part in getattr(condition, "parts", ()):
            yield from _parts(part)

"""The filters of the list of deliveries: each of them leaves a query that a million rows do not slow down."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from ..flow import describe, looks
from ..models import Delivery
from ..queryset import DeliveryQuerySet, State
from ..receivers import registry
from . import places

DATABASE = "database"
OPEN = (State.WAITING, State.QUEUED, State.RUNNING)
RETRYING = Q(state__in=(State.WAITING, State.QUEUED), attempt__gt=F("attempts_before"))
"""An attempt has failed, and another is to come."""
STATES: dict[str, tuple[str | Promise, Q]] = {
    "open": (_("open (waiting, queued or running)"), Q(state__in=OPEN)),
    **{state.value: (state.label, Q(state=state)) for state in OPEN},
    "retrying": (_("retrying"), RETRYING),
    **{state.value: (state.label, Q(state=state)) for state in (State.DONE, State.DEAD, State.DISCARDED)},
}
AGES: dict[str, tuple[str | Promise, timedelta, bool]] = {
    "15m": (_("the last 15 minutes"), timedelta(minutes=15), True),
    "1h": (_("the last hour"), timedelta(hours=1), True),
    "1d": (_("the last 24 hours"), timedelta(days=1), True),
    "over1h": (_("more than an hour ago"), timedelta(hours=1), False),
    "over1d": (_("more than a day ago"), timedelta(days=1), False),
    "over7d": (_("more than a week ago"), timedelta(days=7), False),
}

Choices = list[tuple[Any, str]]


def database(request: HttpRequest) -> str:
    """The alias that the request asks for; the first that has an outbox if it names none that has."""
    aliases = places.outboxes() or ["default"]
    wanted = request.GET.get(DATABASE) or request.POST.get(DATABASE)
    return wanted if wanted in aliases else aliases[0]


def names_of(receiver: str) -> tuple[str, ...]:
    """All the names that deliveries of the receiver of this name may have."""
    known = registry.get(receiver)
    return known.names if known else (receiver,)


def _outbox(queryset: QuerySet[Delivery]) -> DeliveryQuerySet:
    return Delivery.objects.using(queryset.db)


class DatabaseFilter(admin.SimpleListFilter):
    """Which outbox. ModelAdmin.get_queryset reads it; there is no list of two at once."""

    title = _("database")
    parameter_name = DATABASE

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        """Those that have an outbox, if there is more than one."""
        aliases = places.outboxes()
        self._current = database(request)
        return [(alias, alias) for alias in aliases] if len(aliases) > 1 else []

    def choices(self, changelist: Any) -> Any:
        """No "All"."""
        for alias, title in self.lookup_choices:
            query = changelist.get_query_string({self.parameter_name: alias})
            yield {"selected": alias == self._current, "query_string": query, "display": title}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        """It is that database's already."""
        return queryset


class StateFilter(admin.SimpleListFilter):
    """Where deliveries are on their way."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        """The states, and two that are made of them."""
        return [(value, str(label)) for value, (label, _condition) in STATES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        """Those in it."""
        chosen = STATES.get(self.value() or "")
        if self.value() == "retrying":
            name = request.GET.get("receiver")
            if places.newest(_outbox(queryset)) is not None:
                places.say_bounded(request)
            return queryset.filter(pk__in=places.retrying(_outbox(queryset), names_of(name) if name else ()))
        return queryset.filter(chosen[1]) if chosen else queryset


class AgeFilter(admin.SimpleListFilter):
    """When they were recorded."""

    title = _("recorded")
    parameter_name = "age"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        """Some spans."""
        return [(value, str(age[0])) for value, age in AGES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        """Those recorded in it."""
        chosen = AGES.get(self.value() or "")
        if chosen is None:
            return queryset
        outbox = _outbox(queryset)
        moment, recent = timezone.now() - chosen[1], chosen[2]
        condition = places.recorded(outbox, since=moment) if recent else places.recorded(outbox, before=moment)
        return queryset.filter(condition)


class _Known(admin.SimpleListFilter):
    """A column with the values that the receivers of this process have, and the one that was asked for."""

    def values(self, using: str) -> Iterable[str]:
        """What there is to choose from."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        """Not what the whole table holds, which would be a look at all of it."""
        known = {*self.values(database(request)), request.GET.get(self.parameter_name or "", "")} - {""}
        return [(value, value) for value in sorted(known)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        """Those with the value. No index has it: of all that are there, the newest."""
        if not self.value():
            return queryset
        if request.GET.get("state") != State.DEAD and (oldest := places.newest(_outbox(queryset))) is not None:
            places.say_bounded(request)
            queryset = queryset.filter(pk__gt=oldest)
        return queryset.filter(**{str(self.parameter_name): self.value()})


class ReceiverFilter(_Known):
    """One receiver's."""

    title = _("receiver")
    parameter_name = "receiver"

    def values(self, using: str) -> Iterable[str]:
        """Those of this process, and those that something is recorded for."""
        return {*(receiver.name for receiver in registry.all()), *looks.names(using)}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        """Its deliveries, also those under its old names."""
        return queryset.filter(receiver__in=names_of(str(self.value()))) if self.value() else queryset


class SignalFilter(_Known):
    """One signal's."""

    title = _("signal")
    parameter_name = "signal"

    def values(self, using: str) -> Iterable[str]:
        """What is listened to."""
        return {signal for receiver in registry.all() for signal in receiver.signals}


class SenderFilter(_Known):
    """One sender's."""

    title = _("sender")
    parameter_name = "sender"

    def values(self, using: str) -> Iterable[str]:
        """Models that are listened to; other senders can be reached from a delivery of theirs."""
        for receiver in registry.all():
            for sender in receiver.options.senders:
                if isinstance(sender, str) or hasattr(sender, "_meta"):
                    yield describe.sender(sender).lower()  # a row has a model's label in lower case

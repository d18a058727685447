"""The columns of the list of deliveries."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_lazy as _

from ..flow.words import span
from ..models import Delivery
from ..queryset import State

SHORT = 120


def short(name: str) -> str:
    """The last part of a dotted name, which the eye looks for."""
    return name.rpartition(".")[2]


def badge(delivery: Delivery) -> SafeString:
    """The state in words, and in a colour."""
    state, label = delivery.state, str(State(delivery.state).label)
    if delivery.tries and state in (State.WAITING, State.QUEUED):
        state, label = "retrying", gettext("retrying")
    return format_html('<span class="sq-state sq-{}">{}</span>', state, label)


def moment(value: datetime | None) -> str:
    """How far away ``value`` is."""
    if value is None:
        return "-"
    seconds = (timezone.now() - value).total_seconds()
    text = gettext("%(time)s ago") if seconds >= 0 else gettext("in %(time)s")
    return text % {"time": span(max(abs(seconds), 1))}


def type_name(error: dict[str, Any]) -> str:
    """The dotted name of the error's class, as a traceback has it."""
    return str(error.get("type", "")).removeprefix("builtins.")


def traceback_of(error: dict[str, Any]) -> str:
    """With the project's files named from the current directory, as a handler's place is."""
    return str(error.get("traceback", "")).replace(f'File "{Path.cwd()}{os.sep}', 'File "')


def error_line(error: dict[str, Any] | None) -> str:
    """Type and message of ``error``."""
    if not error:
        return ""
    kind, message = short(str(error.get("type", ""))), str(error.get("message", ""))
    return f"{kind}: {message}" if message else kind


class Columns:
    """For DeliveryAdmin."""

    @admin.display(description="#")
    def number(self, delivery: Delivery) -> str:
        """Its id."""
        return f"#{delivery.pk}"

    @admin.display(description=_("state"))
    def status(self, delivery: Delivery) -> SafeString:
        """In words, and in a colour."""
        return badge(delivery)

    @admin.display(description=_("receiver, signal, object"))
    def what(self, delivery: Delivery) -> SafeString:
        """Short names; the whole ones are titles, and on its page."""
        return format_html(
            '<strong title="{}">{}</strong><br><span class="sq-quiet" title="{}">{} {} {}</span>',
            *(delivery.receiver, short(delivery.receiver)),
            *(delivery.signal, short(delivery.signal), delivery.sender, delivery.object_pk),
        )

    @admin.display(description=_("attempts"))
    def tries(self, delivery: Delivery) -> str:
        """Those that count, and those before a replay."""
        before = delivery.attempts_before
        return (
            gettext("%(now)s (+%(before)s)") % {"now": delivery.tries, "before": before}
            if before
            else str(delivery.tries)
        )

    @admin.display(description=_("when"))
    def when(self, delivery: Delivery) -> SafeString:
        """When it was finished, or is due."""
        value = delivery.finished_at or delivery.due_at
        if delivery.due_at is None:
            text = moment(value)
        elif delivery.due_at < timezone.now():
            text = gettext("was due %(time)s") % {"time": moment(value)}
        elif delivery.state == State.RUNNING:
            text = gettext("lease ends %(time)s") % {"time": moment(value)}
        elif delivery.state == State.QUEUED:
            text = gettext("looked at again %(time)s") % {"time": moment(value)}
        else:
            text = gettext("due %(time)s") % {"time": moment(value)}
        return format_html('<span title="{}">{}</span>', value or "", text)

    @admin.display(description=_("last error"))
    def last_error(self, delivery: Delivery) -> str:
        """Type and message."""
        if delivery.state == State.DONE or not delivery.errors:
            return ""
        line = error_line(delivery.errors[-1])
        return line if len(line) <= SHORT else f"{line[:SHORT]}…"

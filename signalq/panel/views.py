"""The flow page, from a sentence for whoever is on call to a picture for a newcomer; and the page behind a receiver."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext, gettext_lazy as _

from ..flow import describe
from ..flow.lights import NAMES
from ..flow.overview import Flow, ReceiverFlow, flow
from ..flow.words import number, span
from . import places
from .changelist import delivery_url, list_url
from .columns import moment, short
from .errors import READ, failing
from .picture import picture, short_receiver

WORDS: dict[str, str | Promise] = {
    "ok": _("works"),
    "warning": _("warning"),
    "bad": _("does not work"),
    "idle": _("not known"),
}
NUMBERS: dict[str, str | Promise] = {
    "waiting": _("waiting"),
    "queued": _("queued"),
    "running": _("running"),
    "retrying": _("retrying"),
    "dead": _("dead"),
}
BAR_HEIGHT = 24


@dataclass(frozen=True)
class Number:
    """A number of deliveries, with the list of them."""

    name: str
    label: str | Promise
    text: str
    url: str
    is_zero: bool


@dataclass(frozen=True)
class Bar:
    """One hour's."""

    x: int
    y: float
    height: float


@dataclass(frozen=True)
class Row:
    """A receiver as the table has it."""

    flow: ReceiverFlow
    id: str
    url: str
    numbers: list[Number]
    bars: list[Bar]
    bars_text: str

    @property
    def name(self) -> str:
        """The end of its name, which tells it apart."""
        return short_receiver(self.flow.name)

    @property
    def breakable(self) -> SafeString:
        """The same, for a narrow column."""
        return mark_safe(conditional_escape(self.name).replace(".", ".<wbr>").replace("_", "_<wbr>"))  # noqa: S308 - escaped

    @property
    def signals(self) -> str:
        """Short, with commas."""
        return ", ".join(map(short, self.flow.signals))

    @property
    def senders(self) -> str:
        """With commas."""
        return ", ".join(sender or gettext("any sender") for sender in self.flow.senders)

    @property
    def oldest(self) -> str:
        """For how long the oldest is overdue."""
        return "-" if self.flow.oldest_due is None else span(self.flow.oldest_due)

    @property
    def last_done(self) -> str:
        """How long ago."""
        return moment(self.flow.last_done)

    @property
    def percentiles(self) -> str:
        """p50 and p99 from the commit to done."""
        if self.flow.p50 is None or self.flow.p99 is None:
            return "-"
        return f"{span(self.flow.p50)} / {span(self.flow.p99)}"


def flow_page(model_admin: Any, request: HttpRequest) -> HttpResponse:
    """All receivers; to htmx only what changes."""
    now = flow()
    site = model_admin.admin_site.name
    context = {
        "flow": now,
        "level": "good" if now.is_well else "bad",
        "lights": [(light, capfirst(str(NAMES[light.name])), WORDS[light.state]) for light in now.lights],
        "rows": [_row(each, site) for each in now.receivers],
        "columns": NUMBERS.values(),
        "picture": picture(now.receivers) if now.receivers and not _is_live(request) else None,
        **_announcement(request, now),
    }
    return _answer(model_admin, request, gettext("Flow"), "flow", context)


def receiver_page(model_admin: Any, request: HttpRequest) -> HttpResponse:
    """What is behind one receiver: its errors, and what to do about them."""
    name, now, site = request.GET.get("name", ""), flow(), model_admin.admin_site.name
    row = next((_row(each, site) for each in now.receivers if _is_called(each, name)), None)
    if row is None:
        raise Http404(
            gettext("No receiver is called %(name)s, and nothing is recorded for one.") % {"name": repr(name)}
        )
    receiver = row.flow.receiver
    found = failing(row.flow.name, row.flow.aliases)
    context = {
        "row": row,
        # Not the receiver itself: a template calls what it can call.
        "known": receiver is not None,
        "connected": receiver is not None and receiver.connected,
        "atomic": receiver is not None and receiver.options.atomic and receiver.options.durable,
        "place": describe.place(receiver) if receiver else "",
        "options": [option.partition("=")[::2] for option in describe.options(receiver)] if receiver else [],
        "failing": found,
        "groups": [
            (group, delivery_url(group.newest, site), list_url(site, group.newest._state.db)) for group in found.groups
        ],
        "read": READ,
        "outboxes": list(_outboxes(row.flow, site)),
        "here": row.url,
    }
    return _answer(model_admin, request, row.flow.name, "receiver", context)


def _answer(model_admin: Any, request: HttpRequest, title: str, name: str, context: dict[str, Any]) -> HttpResponse:
    live = request.GET.get("live") != "off"
    query = {key: value for key, value in request.GET.items() if key not in ("live", "seen")}
    address = f"{request.path}?{urlencode(query)}" if query else request.path
    off = f"{request.path}?{urlencode({**query, 'live': 'off'})}"
    context = {
        **model_admin.page_context(request, title),
        **context,
        "live": live,
        "address": address,
        "toggle": off if live else address,
        "updated": timezone.now(),
        "list_url": list_url(model_admin.admin_site.name),
    }
    part = "live" if _is_live(request) else "page"
    response = TemplateResponse(request, f"signalq/{name}_{part}.html", context)
    response["Vary"] = "HX-Request"
    return response


def _is_live(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true"


def _is_called(row: ReceiverFlow, name: str) -> bool:
    return row.name == name or (row.receiver is not None and name in row.receiver.names)


def _announcement(request: HttpRequest, now: Flow) -> dict[str, Any]:
    """What a screen reader is to be told when it changes: not the numbers, which change all the time."""
    needs_you = gettext("needs you")  # xgettext does not look into f-strings
    parts = [f"{short_receiver(row.name)}: {needs_you}" for row in now.needing]
    parts += [
        f"{capfirst(str(NAMES[light.name]))}: {WORDS[light.state]}" for light in now.lights if light.state != "ok"
    ]
    text = ". ".join(parts) or gettext("All is well.")
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"announcement": text, "digest": digest, "is_news": _is_live(request) and request.GET.get("seen") != digest}


def _row(each: ReceiverFlow, site: str) -> Row:
    using = each.aliases[0] if each.aliases else None
    numbers = [
        Number(
            name,
            label,
            each.shown(name),
            list_url(site, using, receiver=each.name, state=name),
            not getattr(each, name),
        )
        for name, label in NUMBERS.items()
    ]
    most = max(each.hours, default=0)
    bars = [
        # At least a line for one that is not nothing.
        Bar(x=hour * 4, y=BAR_HEIGHT - height, height=height)
        for hour, count in enumerate(each.hours)
        if (height := round(max(count / most * BAR_HEIGHT, 1.5), 1) if count else 0)
    ]
    text = gettext("Done in the last 24 hours: %(total)s; in the busiest: %(most)s") % {
        "total": number(sum(each.hours)),
        "most": number(most),
    }
    address = f"{reverse('admin:signalq_receiver', current_app=site)}?{urlencode({'name': each.name})}"
    return Row(each, hashlib.sha256(each.name.encode()).hexdigest()[:8], address, numbers, bars, text)


def _outboxes(row: ReceiverFlow, site: str) -> Iterator[dict[str, str]]:
    """Where the buttons of one receiver lead to: each database has its own list."""
    for using in row.aliases or places.outboxes()[:1]:
        yield {
            "using": using,
            "dead": list_url(site, using, receiver=row.name, state="dead"),
            "open": list_url(site, using, receiver=row.name, state="open"),
            "any": list_url(site, using, receiver=row.name),
        }

"""From a button to an action: ask where much is at stake, do it, say what was done, and go back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext, gettext_lazy as _, ngettext

from ..flow.words import number
from ..models import Delivery
from ..queryset import DeliveryQuerySet, State
from .actions import AT_ONCE, Acted
from .changelist import delivery_url

SHOWN = 10


class Kind(NamedTuple):
    """What is asked, and how it is told."""

    name: str
    asks_always: bool
    title: str | Promise
    question: Callable[[int], str]
    explanation: str | Promise
    button: str | Promise
    done: Callable[[int], str]


REPLAY = Kind(
    "replay",
    False,
    _("Replay deliveries"),
    lambda count: ngettext("Replay %(count)s delivery?", "Replay %(count)s deliveries?", count),
    _("They are queued again, with all their retries. Their errors stay on record."),
    _("Yes, replay"),
    lambda count: ngettext("%(count)s delivery is queued again.", "%(count)s deliveries are queued again.", count),
)
DISCARD = Kind(
    "discard",
    True,
    _("Discard deliveries"),
    lambda count: ngettext("Discard %(count)s delivery?", "Discard %(count)s deliveries?", count),
    _("Their handlers will not run. They stay on record, and can be replayed, for as long as RETAIN_DONE says."),
    _("Yes, discard"),
    lambda count: ngettext("%(count)s delivery is discarded.", "%(count)s deliveries are discarded.", count),
)


def carry_out(
    model_admin: Any,
    request: HttpRequest,
    queryset: DeliveryQuerySet,
    kind: Kind,
    act: Callable[[HttpRequest, DeliveryQuerySet], Acted],
) -> HttpResponse | None:
    """Ask or do; None: back to the list."""
    across = request.POST.get("select_across") == "1"
    wanted = _wanted(request, queryset, kind, across)
    if (across or kind.asks_always) and request.POST.get("confirmed") != "yes":
        return _question(model_admin, request, wanted, kind)
    acted = act(request, wanted)
    level = messages.SUCCESS if acted.number else messages.WARNING
    told = kind.done(acted.number) % {"count": number(acted.number)} if acted.number else _nothing(kind)
    messages.add_message(request, level, _with_link(request, wanted, told))
    if acted.left:
        messages.warning(
            request,
            gettext(
                "%(most)s are done in one request, and there are more: ask again, or use manage.py signalq %(name)s."
            )
            % {"most": number(AT_ONCE), "name": kind.name},
        )
    return _back(request)


def _with_link(request: HttpRequest, wanted: DeliveryQuerySet, told: str) -> str:
    """``told``, with the way to the delivery if it was a single one that was selected."""
    selected = request.POST.getlist(ACTION_CHECKBOX_NAME)
    if request.POST.get("select_across") == "1" or len(selected) != 1 or not selected[0].isdecimal():
        return told
    delivery = Delivery(pk=int(selected[0]))
    delivery._state.db = wanted.db
    return format_html('{} <a href="{}">#{}</a>', told, delivery_url(delivery), delivery.pk)


def _wanted(request: HttpRequest, queryset: DeliveryQuerySet, kind: Kind, across: bool) -> DeliveryQuerySet:
    if kind is REPLAY:
        # What somebody has discarded comes back only if it is meant: selected, or listed as such.
        states = (
            [State.DEAD] if across and request.GET.get("state") != State.DISCARDED else [State.DEAD, State.DISCARDED]
        )
        return queryset.filter(state__in=states)
    return queryset.discardable()


def _nothing(kind: Kind) -> str:
    if kind is REPLAY:
        return gettext("There was nothing to replay: only dead and discarded deliveries can be.")
    return gettext("There was nothing to discard: what is finished, or at work, stays as it is.")


def _question(model_admin: Any, request: HttpRequest, wanted: DeliveryQuerySet, kind: Kind) -> HttpResponse:
    count = len(wanted.order_by("pk").values_list("pk", flat=True)[: AT_ONCE + 1])
    shown = number(count) if count <= AT_ONCE else gettext("more than %(most)s") % {"most": number(AT_ONCE)}
    more = max(min(count, AT_ONCE) - SHOWN, 0)
    context = {
        **model_admin.page_context(request, kind.title),
        "kind": kind,
        "question": kind.question(count) % {"count": shown},
        "some": wanted.order_by("pk").defer("payload", "errors")[:SHOWN] if count else [],
        "more": ngettext("and %(count)s more", "and %(count)s more", more) % {"count": number(more)} if more else "",
        "count": count,
        "nothing": _nothing(kind),
        "checkbox": ACTION_CHECKBOX_NAME,
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "across": request.POST.get("select_across", "0"),
        "action": request.POST.get("action", ""),
        "next": _next(request) or request.get_full_path(),
    }
    return TemplateResponse(request, "admin/signalq/delivery/confirm.html", context)


def _next(request: HttpRequest) -> str:
    wanted = request.POST.get("next", "")
    allowed = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, request.is_secure())
    return wanted if allowed else ""


def _back(request: HttpRequest) -> HttpResponse | None:
    address = _next(request)
    return HttpResponseRedirect(address) if address else None

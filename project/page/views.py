from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from django.contrib import messages
from django.core.management import CommandError, call_command
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from project.page import feed

if TYPE_CHECKING:
    from django.http import HttpRequest


# Both views only read. Outside of ATOMIC_REQUESTS they take no lock, which on SQLite would be the only one there is.
@transaction.non_atomic_requests
@never_cache
@ensure_csrf_cookie
@require_GET
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "page/page.html", {"live": feed.read()})


@transaction.non_atomic_requests
@never_cache
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """The part of the page that changes by itself; nothing at all while nothing has changed."""
    news = feed.read()
    if request.GET.get("seen") == news.fingerprint:
        return HttpResponse(status=204)
    return render(request, "page/live.html", {"live": news})


# Outside of ATOMIC_REQUESTS for another reason: the worker is woken at once, and must find the delivery queued.
@transaction.non_atomic_requests
@require_POST
def replay(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        call_command("signalq", "replay", str(pk), stdout=StringIO())
    except CommandError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Replayed delivery {pk}.")
    return redirect("page")

"""Every view saves, says so and goes back to the page. None of them knows who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from project.accounts.forms import SignUpForm
from project.accounts.receivers import subscribe_to_newsletter

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest, HttpResponse


@require_POST
def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUpForm(request.POST)
    if not form.is_valid():
        for field, errors in form.errors.items():
            messages.error(request, f"{field}: {' '.join(map(str, errors))}")
        return redirect("page")
    user = form.save()
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    messages.success(request, f"Signed up as {user.username}.")
    return redirect("page")


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("page")


@require_POST
@login_required(login_url="page")
def delete_account(request: HttpRequest) -> HttpResponse:
    user = cast("User", request.user)
    name = user.username
    user.delete()
    logout(request)
    messages.success(request, f"Deleted the account of {name}, and its orders with it.")
    return redirect("page")


@require_POST
def switch_newsletter(request: HttpRequest) -> HttpResponse:
    """Disconnect the receiver or connect it again; like Django's own, that holds for this process."""
    if request.POST.get("connected") == "yes":
        subscribe_to_newsletter.connect()
        messages.success(request, "Connected: a sign-up subscribes to the newsletter again.")
    else:
        subscribe_to_newsletter.disconnect()
        messages.success(request, "Disconnected: the next sign-up makes no delivery for the newsletter.")
    return redirect("page")

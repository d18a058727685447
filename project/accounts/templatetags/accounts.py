"""The panels that this app brings to the page."""

from __future__ import annotations

from typing import Any

from django import template

from project.accounts.forms import SignUpForm
from project.accounts.models import Profile, Subscription
from project.accounts.receivers import subscribe_to_newsletter

register = template.Library()


@register.inclusion_tag("accounts/account.html", takes_context=True)
def account_panel(context: dict[str, Any]) -> dict[str, Any]:
    return {**_of(context), "form": SignUpForm(auto_id="sign-up-%s")}


@register.inclusion_tag("accounts/newsletter.html", takes_context=True)
def newsletter_switch(context: dict[str, Any]) -> dict[str, Any]:
    return {**_of(context), "connected": subscribe_to_newsletter.connected}


@register.inclusion_tag("accounts/made.html", takes_context=True)
def account_made(context: dict[str, Any]) -> dict[str, Any]:
    """What the receivers have made of the sign-up."""
    user = context["request"].user
    return {
        "profile": Profile.objects.filter(user_id=user.pk).first(),
        "subscription": Subscription.objects.filter(user_id=user.pk).first(),
    }


def _of(context: dict[str, Any]) -> dict[str, Any]:
    return {"user": context["request"].user, "csrf_token": context.get("csrf_token")}

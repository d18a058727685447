from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from project.payments.models import Gateway

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


@require_POST
def switch_gateway(request: HttpRequest) -> HttpResponse:
    up = request.POST.get("up") == "yes"
    Gateway.objects.update_or_create(pk=1, defaults={"up": up})
    messages.success(request, f"The payment gateway is {'up' if up else 'down'}.")
    return redirect("page")

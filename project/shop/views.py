"""Every view saves, says so and goes back to the page. None of them knows who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.db.models import Sum
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from project.shop.forms import EditForm, OrderForm, TagsForm
from project.shop.models import Order, Product
from project.shop.signals import order_checked_out

if TYPE_CHECKING:
    from django import forms
    from django.contrib.auth.models import User
    from django.http import HttpRequest, HttpResponse


class SoldOutError(Exception):
    """More was ordered than there is."""


@require_POST
@login_required(login_url="page")
def place_order(request: HttpRequest) -> HttpResponse:
    form = OrderForm(request.POST, instance=Order(customer=cast("User", request.user)))
    return _save(request, form, "Ordered: {}.")


@require_POST
@login_required(login_url="page")
def edit_order(request: HttpRequest, pk: int) -> HttpResponse:
    return _save(request, EditForm(request.POST, instance=_own_order(request, pk)), "Changed: {}.")


@require_POST
@login_required(login_url="page")
def tag_order(request: HttpRequest, pk: int) -> HttpResponse:
    form = TagsForm(request.POST, instance=_own_order(request, pk))
    if form.is_valid():
        # Not form.save(): nothing about the order itself has changed, so nobody is told that it was saved.
        form.instance.tags.set(form.cleaned_data["tags"])
        messages.success(request, f"Tagged: {form.instance}.")
    return redirect("page")


@require_POST
@login_required(login_url="page")
def check_out(request: HttpRequest, pk: int) -> HttpResponse:
    order = _own_order(request, pk)
    if not order.checked_out:
        order.checked_out = True
        order.save(update_fields=["checked_out"])
        order_checked_out.send(sender=Order, order=order, amount=order.amount)
        messages.success(request, f"Checked out: {order}.")
    return redirect("page")


@require_POST
@login_required(login_url="page")
def delete_order(request: HttpRequest, pk: int) -> HttpResponse:
    order = _own_order(request, pk)
    text = str(order)
    order.delete()
    messages.success(request, f"Deleted: {text}.")
    return redirect("page")


def _own_order(request: HttpRequest, pk: int) -> Order:
    return get_object_or_404(Order.objects.select_related("product"), pk=pk, customer=cast("User", request.user))


def _save(request: HttpRequest, form: forms.ModelForm[Order], message: str) -> HttpResponse:
    if not form.is_valid():
        for field, errors in form.errors.items():
            messages.error(request, f"{field}: {' '.join(map(str, errors))}")
        return redirect("page")
    try:
        with transaction.atomic():
            product = Product.objects.select_for_update().get(pk=form.instance.product_id)
            order = form.save()
            if Order.objects.filter(product=product).aggregate(n=Sum("quantity"))["n"] > product.stock:
                raise SoldOutError
    except SoldOutError:
        # The order was saved, its signals were sent, and all of it is undone: no receiver hears of it.
        messages.error(request, f"Not enough {product.name} in stock. The order was rolled back, its events with it.")
    else:
        messages.success(request, message.format(order))
    return redirect("page")

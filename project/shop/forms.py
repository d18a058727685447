from __future__ import annotations

from django import forms

from project.shop.models import Order, Product


class OrderForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic when Django runs it
    product = forms.ModelChoiceField(Product.objects.order_by("name"), empty_label=None)
    quantity = forms.IntegerField(min_value=1, initial=1)

    class Meta:
        model = Order
        fields = ("product", "quantity")


class EditForm(forms.ModelForm):  # type: ignore[type-arg]
    quantity = forms.IntegerField(min_value=1)

    class Meta:
        model = Order
        fields = ("quantity", "note")


class TagsForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Order
        fields = ("tags",)
        widgets = {"tags": forms.CheckboxSelectMultiple}

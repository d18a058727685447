from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth import get_user_model

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class SignUpForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic when Django runs it
    """A name and an address; a demo needs no password."""

    email = forms.EmailField()

    class Meta:
        model = get_user_model()
        fields = ("username", "email")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].help_text = ""
        self.fields["username"].widget.attrs |= {"autocomplete": "username", "autofocus": False}
        self.fields["email"].widget.attrs |= {"autocomplete": "email"}

    def save(self, commit: bool = True) -> User:
        self.instance.set_unusable_password()
        user: User = super().save(commit)
        return user

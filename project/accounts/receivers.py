"""Put `receiver` for `async_receiver` and these are plain Django signal handlers; nothing else would change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.mail import send_mail
from django.db.models.signals import post_save

from project.accounts.models import Profile, Subscription
from signalq import Created, async_receiver

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@async_receiver(post_save, sender=settings.AUTH_USER_MODEL, when=Created())
def create_profile(sender: type[User], instance: User, **kwargs: Any) -> None:
    Profile.objects.create(user=instance)


# A mail cannot be rolled back, so there is no use in holding a transaction open while it is sent.
@async_receiver(post_save, sender=settings.AUTH_USER_MODEL, when=Created(), atomic=False)
def send_welcome_email(sender: type[User], instance: User, **kwargs: Any) -> None:
    send_mail(
        subject=f"Welcome, {instance.username}",
        message="Your account is ready. This mail was sent by a Celery worker, after your sign-up had committed.",
        from_email=None,
        recipient_list=[instance.email],
    )


# The page disconnects this one and connects it again.
@async_receiver(post_save, sender=settings.AUTH_USER_MODEL, when=Created())
def subscribe_to_newsletter(sender: type[User], instance: User, **kwargs: Any) -> None:
    Subscription.objects.create(user=instance)

"""What the pages take for granted; a page that shows its own replaces it."""

from django.db.models.signals import post_save

from signalq import Changed, async_receiver

from .models import Order


@async_receiver(post_save, sender=Order, when=Changed("status", to="paid"))
def send_invoice(sender, instance, **kwargs): ...

"""The shop's own signal: this is how the other apps hear of it."""

from django.dispatch import Signal

# Sent when a customer checks out. Arguments: order (the row) and amount (a Decimal).
order_checked_out = Signal()

"""What the admin shows: deliveries and the flow page. Only admin.py imports it."""

"""Products, orders and tags; a notice to the owner; stock, totals and counts kept right by receivers."""

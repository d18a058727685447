"""Counts what its process publishes: a line for each message, with the number of deliveries that it names."""

"""Counts requests: transient, since a lost one would hurt nobody, and with its results kept."""

"""How signalq grows, what its constants do, what a delivery costs, and the outbox's upkeep: for docs/scale.md."""

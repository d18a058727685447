"""Who was deleted and what changed, written down without the other apps knowing."""

"""An app whose events hold a text that must not turn up where it has no business."""

"""An app that wires its receivers as Django's documentation says: in AppConfig.ready."""

"""The models that every variant works on, and the work of the handlers."""

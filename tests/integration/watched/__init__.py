"""Receivers with every outcome, for those who watch: metrics, traces, Sentry, Flower."""

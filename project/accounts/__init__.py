"""Signing up, and what follows from it: a profile, a welcome email, the newsletter."""

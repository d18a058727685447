"""What is going on, for people: asked by the command ``status``, the admin, the metrics and the relay's probe.

Nothing is imported here: workers need ``looks`` and ``words`` alone.
"""

"""gunicorn's settings for gevent with --preload: patched before anything else is imported, as gevent asks for.

Without that Django's own connections are shared between greenlets, and it refuses every request.
"""

from gevent import monkey

monkey.patch_all()

from tests.faults.website import control_socket_disable, on_reload  # noqa: E402, F401

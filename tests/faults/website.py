"""A small site for real web servers: WSGI and ASGI application, its urls, and gunicorn's settings, all in one.

`SIGNALQ_TEST_PARENT_SAVES` makes the process that loads it save and publish at once, so that a server that forks
afterwards hands its children a publisher in use.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

PARENT_SAVES = "SIGNALQ_TEST_PARENT_SAVES"
PARENT = "the parent"

# gunicorn's: a remote control in the home directory would be shared by all sites of this machine.
control_socket_disable = True


def save(request: HttpRequest) -> HttpResponse:
    """A request that saves, in a transaction as ATOMIC_REQUESTS makes it."""
    return JsonResponse({"pk": _save("a request"), "pid": os.getpid()})


def on_reload(server: Any) -> None:
    """gunicorn's master saves once more: its own connection to the broker has to have outlived its children."""
    _save(PARENT)
    connections.close_all()


def _save(name: str) -> int:
    from tests.testapp.models import Author

    with transaction.atomic():
        return int(Author.objects.create(name=name).pk)


def _save_and_see_it_handled() -> None:
    from tests.testapp.models import Effect

    pk = _save(PARENT)
    deadline = time.monotonic() + 20
    while Effect.objects.filter(object_pk=str(pk)).count() < 3:
        assert time.monotonic() < deadline, "what the parent has saved is not handled"
        time.sleep(0.02)
    connections.close_all()


urlpatterns = [path("save", save)]
application = get_wsgi_application()
asgi = get_asgi_application()
if PARENT_SAVES in os.environ and __name__ == "tests.faults.website":
    del os.environ[PARENT_SAVES]
    # In a thread of its own, which takes its database connection with it: children must not find one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_save_and_see_it_handled).result()

"""``ContextMiddleware``: lets events know the request that they came from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .surroundings import request_active

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class ContextMiddleware:
    """Put it into MIDDLEWARE anywhere after AuthenticationMiddleware; for sync and async views.

    Events of a request then carry its user and its trace context. The user is looked up when the first event of the
    request is captured, unless the view has done so.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """The response, or an awaitable of it."""
        if self.is_async:
            return self._call_async(request)
        with request_active(request):
            return self.get_response(request)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        with request_active(request):
            return await cast("Awaitable[HttpResponseBase]", self.get_response(request))

"""What a person's browser does, as far as the demo needs it: cookies, forms, redirects."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from html import unescape
from http.cookiejar import CookieJar

MESSAGE = re.compile(r'<p class="(success|error)[^"]*">(.*?)</p>')


class Refused(Exception):  # the page said no, which may be what was expected
    """The page answered with an error message instead of doing it."""


class Browser:
    """One person. Each method posts a form of the page and follows the redirect back to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.posts = 0
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))

    def look(self) -> str:
        return self._open(self.url, None)

    def post(self, path: str, **fields: str | int | list[int]) -> str:
        """The page's message; raises Refused if that is an error, and urllib's HTTPError below that."""
        if self._token() is None:
            self.look()
        self.posts += 1
        form = {**fields, "csrfmiddlewaretoken": self._token() or ""}
        text = self._open(self.url + path, urllib.parse.urlencode(form, doseq=True).encode())
        messages = MESSAGE.findall(text)
        for level, message in messages:
            if level == "error":
                raise Refused(unescape(message))
        return unescape(messages[-1][1]) if messages else ""

    def _open(self, url: str, data: bytes | None) -> str:
        with self._opener.open(urllib.request.Request(url, data), timeout=30) as response:  # noqa: S310
            return str(response.read().decode())

    def _token(self) -> str | None:
        return next((cookie.value for cookie in self._cookies if cookie.name == "csrftoken"), None)

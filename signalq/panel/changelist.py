"""The list of deliveries, which nobody counts: one row more than a page has tells whether there is another."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.http import HttpRequest
from django.urls import reverse

from ..models import Delivery
from . import filters

LAST_PAGE = 1_000
"""Nobody turns so many pages, and each further one costs the database more."""


class DeliveryList(ChangeList):
    """One page of the outbox of one alias."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page."""
        self.alias = filters.database(request)
        self.page_num = min(max(self.page_num, 1), LAST_PAGE)
        start = (self.page_num - 1) * self.list_per_page
        rows = list(self.queryset[start : start + self.list_per_page + 1])
        self.result_list: Any = rows[: self.list_per_page]
        self.has_older = len(rows) > self.list_per_page and self.page_num < LAST_PAGE
        # At least so many. Django compares it to the length of the page: is there more to be selected than is seen?
        self.result_count = start + len(rows)
        self.is_bounded = getattr(request, "signalq_bounded", False)
        self.full_result_count = self.result_count  # which Django takes as "no need to tell"
        self.show_full_result_count = False
        self.show_admin_actions = bool(rows)
        self.can_show_all = False
        self.multi_page = self.has_older or self.page_num > 1

    @property
    def newer_query(self) -> str | None:
        """Of the page before this one."""
        return self.get_query_string({PAGE_VAR: self.page_num - 1}) if self.page_num > 1 else None

    @property
    def older_query(self) -> str | None:
        """Of the page after this one."""
        return self.get_query_string({PAGE_VAR: self.page_num + 1}) if self.has_older else None

    @property
    def first_number(self) -> int:
        """The number of the first row of the page."""
        return (self.page_num - 1) * self.list_per_page + 1

    @property
    def last_number(self) -> int:
        """The number of the last row of the page."""
        return self.first_number + len(self.result_list) - 1

    def url_for_result(self, result: Any) -> str:
        """A delivery's number means nothing without its database."""
        return delivery_url(result, self.model_admin.admin_site.name)


def delivery_url(delivery: Delivery, site: str = "admin") -> str:
    """The page of ``delivery``."""
    address = reverse("admin:signalq_delivery_change", args=[delivery.pk], current_app=site)
    using = delivery._state.db
    return f"{address}?{urlencode({filters.DATABASE: using})}" if using and using != "default" else address


def list_url(site: str = "admin", using: str | None = None, **lookups: str) -> str:
    """The list with its filters set."""
    if using and using != "default":
        lookups[filters.DATABASE] = using
    address = reverse("admin:signalq_delivery_changelist", current_app=site)
    return f"{address}?{urlencode(lookups)}" if lookups else address

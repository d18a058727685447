"""Deliveries and the flow page in Django's admin. What they show is in panel/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from .models import Delivery
from .panel import actions, asking, columns, detail, filters, places, views
from .panel.changelist import DeliveryList
from .panel.search import search
from .queryset import DeliveryQuerySet, State

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Delivery]
else:
    Base = admin.ModelAdmin

FINISHED = {State.DONE, State.DEAD, State.DISCARDED}


@admin.register(Delivery)
class DeliveryAdmin(columns.Columns, Base):
    """Deliveries are looked at, replayed and discarded, with a permission for each; nobody adds or edits one."""

    list_display = ("number", "status", "what", "tries", "when", "last_error")
    list_display_links = ("number",)
    list_filter = (
        *(filters.DatabaseFilter, filters.StateFilter, filters.AgeFilter),
        *(filters.ReceiverFilter, filters.SenderFilter, filters.SignalFilter),
    )
    search_fields = ("object_pk",)  # Django shows the field for it; what is searched is in panel/search.py
    search_help_text = _(
        "An object's key (17, or shop.order:17), an event's id, a delivery's number, or an error's text."
    )
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    list_per_page = 50
    actions = ("replay", "discard")

    class Media:
        css = {"all": ["signalq/panel.css"]}

    change_list_template = "admin/signalq/delivery/change_list.html"

    # Who may what.

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: events do."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:
        """Nobody: a delivery is a record."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:
        """Nobody: discard keeps the record."""
        return False

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Whoever has ``signalq.replay_delivery``."""
        return request.user.has_perm("signalq.replay_delivery")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        """Whoever has ``signalq.discard_delivery``."""
        return request.user.has_perm("signalq.discard_delivery")

    # The list.

    def get_queryset(self, request: HttpRequest) -> DeliveryQuerySet:
        """The outbox that the request asks for, without the events."""
        return Delivery.objects.using(filters.database(request)).defer("payload")

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """The newest first; of what is finished, what was finished last: an index has either in its order."""
        return ("-finished_at", "-pk") if request.GET.get("state") in FINISHED else ("-pk",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[DeliveryList]:
        """One that does not count."""
        return DeliveryList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """In a bounded part of the outbox; the page says so where that is not all of it."""
        if not search_term.strip():
            return queryset, False
        found = search(Delivery.objects.using(queryset.db), search_term)
        if not found.everywhere:
            places.say_bounded(request)
        return queryset.filter(pk__in=found.ids), False

    @admin.action(permissions=["replay"], description=_("Replay selected deliveries"))
    def replay(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Queue dead and discarded ones again."""
        return asking.carry_out(self, request, queryset, asking.REPLAY, actions.replay)

    @admin.action(permissions=["discard"], description=_("Discard selected deliveries"))
    def discard(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Give up what is not finished, or dead."""
        return asking.carry_out(self, request, queryset, asking.DISCARD, actions.discard)

    # The pages.

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, or an action of it."""
        ours = {"title": capfirst(self.opts.verbose_name_plural), "is_nav_sidebar_enabled": False}
        return super().changelist_view(request, {**ours, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """One delivery, to be read."""
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        delivery = self.get_object(request, unquote(object_id))
        if delivery is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        context = self.page_context(
            request, detail.title(delivery), **detail.context(self.admin_site, request, delivery)
        )
        return TemplateResponse(request, "admin/signalq/delivery/detail.html", {**context, **(extra_context or {})})

    def get_urls(self) -> list[URLPattern]:
        """The flow page's addresses, before the one of a delivery, which matches anything."""
        own = [
            path("flow/", self._page(views.flow_page), name="signalq_flow"),
            path("flow/receiver/", self._page(views.receiver_page), name="signalq_receiver"),
        ]
        return [*own, *super().get_urls()]

    def _page(self, view: Any) -> Any:
        def page(request: HttpRequest) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            response: HttpResponse = view(self, request)
            return response

        checked = self.admin_site.admin_view(never_cache(page))

        def live_or_page(request: HttpRequest) -> HttpResponse:
            if request.headers.get("HX-Request") and not self.admin_site.has_permission(request):
                # Signed out meanwhile: the page itself has to go to the login, and not a part of it.
                return HttpResponse(status=401, headers={"HX-Refresh": "true"})
            return checked(request)

        return live_or_page

    def page_context(self, request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
        """What each page of ours has, and ``more``."""
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "is_nav_sidebar_enabled": False,  # the tables need the room
            "may_replay": self.has_replay_permission(request),
            "may_discard": self.has_discard_permission(request),
            **more,
        }

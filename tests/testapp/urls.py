"""Just enough for requests: the admin, and a page that answers."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path


def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("admin/", admin.site.urls), path("", answer)]

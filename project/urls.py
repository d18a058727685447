"""Each app brings its own addresses; `/` is the page."""

from django.conf import settings
from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("", include("project.page.urls")),
    path("accounts/", include("project.accounts.urls")),
    path("shop/", include("project.shop.urls")),
    path("payments/", include("project.payments.urls")),
    # One stylesheet and htmx, straight from where they are installed: no collectstatic, no web server in front.
    # `insecure` is Django's word for doing so without DEBUG.
    path("static/<path:path>", serve, {"insecure": True}),
]

if settings.SIGNALQ["METRICS"]:
    from signalq import metrics

    urlpatterns.append(path("metrics", metrics.view))

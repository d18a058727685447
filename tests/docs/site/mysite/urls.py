from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path

received = []
"""What was posted to /hook/: (headers, body)."""


def sign_up(request):
    User.objects.create(username=request.POST["username"], email=request.POST["email"])
    return HttpResponse("Welcome")


def hook(request):
    received.append((dict(request.headers), request.body))
    return HttpResponse("Thank you")


def pay(request, pk):
    from shop.models import Order

    order = Order.objects.get(pk=pk)
    order.status = "paid"
    order.save()
    return HttpResponse("Paid")


urlpatterns = [path("sign-up/", sign_up), path("hook/", hook), path("orders/<int:pk>/pay/", pay)]

from django.urls import path

from project.payments import views

urlpatterns = [path("gateway/", views.switch_gateway, name="switch_gateway")]

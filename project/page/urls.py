from django.urls import path

from project.page import views

urlpatterns = [
    path("", views.page, name="page"),
    path("live/", views.live, name="live"),
    path("replay/<int:pk>/", views.replay, name="replay"),
]

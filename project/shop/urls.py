from django.urls import path

from project.shop import views

urlpatterns = [
    path("order/", views.place_order, name="place_order"),
    path("order/<int:pk>/edit/", views.edit_order, name="edit_order"),
    path("order/<int:pk>/tag/", views.tag_order, name="tag_order"),
    path("order/<int:pk>/check-out/", views.check_out, name="check_out"),
    path("order/<int:pk>/delete/", views.delete_order, name="delete_order"),
]

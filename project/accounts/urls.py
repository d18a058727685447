from django.urls import path

from project.accounts import views

urlpatterns = [
    path("sign-up/", views.sign_up, name="sign_up"),
    path("sign-out/", views.sign_out, name="sign_out"),
    path("delete/", views.delete_account, name="delete_account"),
    path("newsletter/", views.switch_newsletter, name="switch_newsletter"),
]

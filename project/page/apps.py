from django.apps import AppConfig


class PageConfig(AppConfig):
    name = "project.page"
    label = "page"

"""Settings of the tests: every database that can be had, no broker, no relay.

A process that a test starts with these settings works on the same databases (see `services.slot`), and on the broker
named by BROKER_URL.
"""

import os

from tests import services

SECRET_KEY = "not a secret: tests only"
USE_TZ = True
TIME_ZONE = "UTC"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.testapp.urls"
DATABASES = services.databases()
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Hashing a password costs a second of CPU with the default on purpose.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "static/"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_celery_results",
    "signalq",
    "tests.testapp",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# Tests say when to publish and when to sweep.
SIGNALQ = {"PUBLISH": False, "RELAY": False}

CELERY_BROKER_URL = os.environ.get("BROKER_URL", "memory://")

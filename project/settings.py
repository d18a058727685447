"""Django settings of the demo. What differs from place to place comes from the environment: see environment.py."""

from __future__ import annotations

import os

import django

from project import environment
from worker.settings import transport_options

DEMO_DIR = environment.directory()
DEMO_DIR.mkdir(parents=True, exist_ok=True)

# Good enough for a demo on one machine, which is all that the default ALLOWED_HOSTS lets in. Beyond that set your own:
# it signs the sessions and the transient deliveries.
SECRET_KEY = os.environ.get("SECRET_KEY") or "for-the-demo-on-this-machine-only-0123456789-abcdefghijklmnopqrstuvwxyz"
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost 127.0.0.1 [::1]").replace(",", " ").split()
CSRF_TRUSTED_ORIGINS = os.environ.get("CSRF_TRUSTED_ORIGINS", "").replace(",", " ").split()
DEBUG = environment.flag("DEBUG")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_results",
    "django_htmx",
    "signalq",
    # Each of these wires its receivers in AppConfig.ready, and hears of the others through signals only.
    "project.accounts",
    "project.shop",
    "project.payments",
    "project.audit",
    "project.activity",
    # And this one lays their panels on one page.
    "project.page",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"

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

DATABASES = {
    "default": environment.database(environment.read("DATABASE_URL", f"sqlite:///{DEMO_DIR / 'demo.sqlite3'}"))
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# The mail server of the demo writes here, and the page reads from here.
MAIL_DIR = DEMO_DIR / "mail"
EMAIL_BACKEND, _mail_options = environment.email(environment.read("EMAIL_URL", "smtp://127.0.0.1:8025"))
DEFAULT_FROM_EMAIL = "shop@signalq.example"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": EMAIL_BACKEND, "OPTIONS": _mail_options}}
    del EMAIL_BACKEND  # Either these settings or those: Django refuses both.
else:
    EMAIL_HOST, EMAIL_PORT = _mail_options.get("host", "localhost"), _mail_options.get("port", 25)
    EMAIL_HOST_USER = _mail_options.get("username", "")
    EMAIL_HOST_PASSWORD = _mail_options.get("password", "")
    EMAIL_USE_SSL, EMAIL_USE_TLS = _mail_options.get("use_ssl", False), _mail_options.get("use_tls", False)
    EMAIL_TIMEOUT = _mail_options.get("timeout")

LANGUAGE_CODE = "en"
TIME_ZONE = os.environ.get("TZ") or "UTC"
USE_TZ = True
STATIC_URL = "static/"

CELERY_BROKER_URL = environment.broker(environment.read("BROKER_URL", environment.embedded_broker()))
CELERY_BROKER_TRANSPORT_OPTIONS = transport_options(CELERY_BROKER_URL)
# For the receivers that ask for it with ignore_result=False; here that is project.activity.
CELERY_RESULT_BACKEND = "django-db"

# For Prometheus: the web server shows them at /metrics, and a worker on a port of its own.
SIGNALQ = {"METRICS": environment.flag("METRICS"), "METRICS_PORT": environment.number("METRICS_PORT")}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "signalq": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}

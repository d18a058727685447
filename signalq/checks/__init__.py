"""System checks: a stable id, a plain message, a hint that says what to do."""

from __future__ import annotations

from django.core.checks import Tags, register


def connect() -> None:
    """Register all but that of ``installed``. Called by AppConfig.ready, when the Celery app should be there."""
    from . import autocommit, database, deployment, project

    project.look_for_celery_app()
    for check in project.ALL:
        register(check)
    for check in (*deployment.ALL, autocommit.check_autocommit):
        register(check, deploy=True)
    for check in database.ALWAYS:
        register(check, Tags.database)
    for check in database.FOR_DEPLOYMENT:
        register(check, Tags.database, deploy=True)

"""Its tasks are found by their path, so they stand at the top of a module."""

from benchmarks.shop import work

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task


@task
def handle(pk: int) -> None:
    work.by_pk(pk)

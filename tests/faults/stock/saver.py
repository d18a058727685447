"""`python -m tests.faults.stock.saver ours 500`: so many intents, in transactions of a few."""

import sys

import django

A_TRANSACTION = 25
"""Saves in one transaction, as an import has them, or an order with its lines."""


def main(name: str, count: int) -> None:
    django.setup()
    from django.db import transaction

    from tests.testapp.models import Intent

    for start in range(0, count, A_TRANSACTION):
        with transaction.atomic():
            for _ in range(start, min(start + A_TRANSACTION, count)):
                Intent(name=name).save()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""The web process: sends the signals with the text that it is given, in a transaction, and ends."""

import sys

import django
from django.db import transaction


def main() -> None:
    django.setup()
    from signalq.publish import publisher
    from tests.integration.canary.receivers import ALL

    with transaction.atomic():
        for signal in ALL:
            signal.send(sender="web", text=sys.argv[1])
    publisher.flush(20)


if __name__ == "__main__":
    main()

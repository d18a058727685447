"""`python -m worker` is `celery -A worker worker`; further arguments are passed on."""

import sys

from worker import app

# Both are conversations between workers over the remote control channel, which worker/settings.py turns off;
# without them a worker is ready a second sooner.
QUIET = ["--without-gossip", "--without-mingle"]


def main(arguments: list[str]) -> None:
    app.worker_main(["worker", "--loglevel=INFO", *QUIET, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])

"""Two of rq's workers, with Django loaded before they fork for each job."""

import os

import django

django.setup()

from redis import Redis  # noqa: E402
from rq.worker_pool import WorkerPool  # noqa: E402

if __name__ == "__main__":
    WorkerPool(["default"], connection=Redis.from_url(os.environ["BENCH_REDIS"]), num_workers=2).start(
        logging_level="ERROR"
    )

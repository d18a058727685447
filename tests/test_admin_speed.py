"""The admin with many deliveries: 20,000, or with `--long` a million.

pytest tests/test_admin_speed.py --long -n 0
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.db.models.signals import post_save
from django.test import Client
from django.test.utils import CaptureQueriesContext

from signalq import async_receiver
from signalq.models import Delivery
from signalq.queryset import State
from tests.testapp.models import Author, Book

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("temporary_receivers", "every_alias")

MOST = 0.3
"""Seconds that a page may take, in the median."""
QUERIES = 45
"""That a page may ask, with those of the session, the user and the databases that are no PostgreSQL."""
RECEIVERS = 14
LIST = "/admin/signalq/delivery/"

# A day, one delivery of each receiver after another; of 500 one is dead, and the last `open` are in the state that is
# asked for. The id of an event holds the time, as UUIDv7 does.
FILL = f"""
INSERT INTO signalq_delivery (event_id, receiver, signal, sender, object_pk, key, state, attempt, attempts_before,
                              lost_leases, repeats, due_at, payload, errors, created_at, finished_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0')
        || '8' || lpad(to_hex(n), 15, '0'))::uuid,
       'shop.receivers.number_' || n %% {RECEIVERS}, 'django.db.models.signals.post_save',
       CASE WHEN n %% 20000 = 7 THEN 'testapp.book' ELSE 'testapp.author' END, (n / {RECEIVERS})::text, '', state,
       CASE WHEN state IN ('done', 'dead') THEN 1 ELSE 0 END, 0, 0, 0,
       CASE WHEN state IN ('waiting', 'queued') THEN at + interval '1 hour' END,
       '{{"v":1,"id":"' || n || '","arguments":{{"note":"' || repeat('x', 400) || '"}}}}',
       CASE WHEN state = 'dead' THEN jsonb_build_array(jsonb_build_object('attempt', 1, 'time', at::text, 'type',
            'builtins.OSError', 'message', 'disk ' || n %% 3 || ' is full', 'traceback', repeat('line of code ', 90)))
            ELSE '[]' END, at, CASE WHEN state IN ('done', 'dead') THEN at + interval '40 ms' END
FROM (SELECT n, now() - interval '1 day' * (1 - n / %(rows)s::float) AS at,
             CASE WHEN n > %(rows)s - %(open)s THEN %(state)s WHEN n %% 500 = 3 THEN 'dead' ELSE 'done' END AS state
      FROM generate_series(1, %(rows)s) AS n) AS rows
"""


@pytest.fixture
def receivers() -> None:
    for number in range(RECEIVERS):

        @async_receiver(post_save, sender=Book if number == 7 else Author, name=f"shop.receivers.number_{number}")
        def receiver(**kwargs: Any) -> None: ...


@pytest.fixture
def fill(long: bool) -> Iterator[Callable[[State, float], int]]:
    """Fills the outbox of PostgreSQL; so much of it is open."""

    def filled(state: State, part: float) -> int:
        rows = 1_000_000 if long else 20_000
        with connection.cursor() as cursor:
            cursor.execute(FILL, {"rows": rows, "open": int(rows * part), "state": state.value})
            cursor.execute("VACUUM ANALYZE signalq_delivery")
        return rows

    yield filled
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE signalq_delivery")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("state", "part"), [(State.QUEUED, 0.01), (State.WAITING, 0.97)], ids=["done", "waiting"])
def test_every_page_is_fast_with_many_deliveries(
    receivers: None,
    fill: Callable[[State, float], int],
    state: State,
    part: float,
    figures: Callable[..., None],
    long: bool,
) -> None:
    rows = fill(state, part)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    dead = Delivery.objects.filter(state=State.DEAD).order_by("pk")[1]
    middle = Delivery.objects.filter(pk__gte=dead.pk + rows // 2).order_by("pk")[0]
    pages = {
        "list": "",
        "dead": "?state=dead",
        "open": "?state=open",
        "done": "?state=done",
        "retrying": "?state=retrying",
        "receiver": "?receiver=shop.receivers.number_3",
        "receiver dead": "?receiver=shop.receivers.number_3&state=dead",
        "seldom sender": "?sender=testapp.book",
        "last 15 min": "?age=15m",
        "an hour ago": "?age=over1h",
        "page 100": "?p=100",
        "object": f"?q=testapp.author:{middle.object_pk}",
        "event": f"?q={middle.event_id}",
        "error": f"?{urlencode({'q': 'disk 2 is'})}",
        "no such error": f"?{urlencode({'q': 'disk 7 is'})}",
        "delivery": f"{middle.pk}/change/",
        "dead delivery": f"{dead.pk}/change/",
        "flow": "flow/",
        "behind a receiver": "flow/receiver/?name=shop.receivers.number_3",
    }
    seconds = {name: _median(client, path) for name, path in pages.items()}
    queries = {name: _queries(client, path) for name, path in pages.items()}
    figures(rows=rows, **{name.replace(" ", "_"): f"{took * 1_000:.0f} ms" for name, took in seconds.items()})
    figures(most_queries=f"{max(queries.values())} ({max(queries, key=lambda name: queries[name])})")
    # A short run is one among others, and tells of the queries only: nothing has been scanned in less.
    assert not {name: took for name, took in seconds.items() if took > (MOST if long else 10 * MOST)}
    assert not {name: count for name, count in queries.items() if count > QUERIES}


def _median(client: Client, path: str, times: int = 5) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        response = client.get(LIST + path)
        took.append(time.perf_counter() - started)
        assert response.status_code == 200, path
    return statistics.median(took)


def _queries(client: Client, path: str) -> int:
    contexts = [CaptureQueriesContext(each) for each in connections.all(initialized_only=True)]
    for context in contexts:
        context.__enter__()
    client.get(LIST + path)
    for context in contexts:
        context.__exit__(None, None, None)
    return sum(len(context) for context in contexts)

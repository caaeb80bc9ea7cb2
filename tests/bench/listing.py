"""The workload that lists runs."""

import contextlib
import http.client
import json
import statistics
import time

from app.streaming.event_store import EventStore
from app.streaming.new_event import Append, NewEvent
from tests.bench.figures import Figures
from tests.bench.servers import Server

PAGES = 200
AT_ONCE = 250


def listing(server: Server, runs: int) -> Figures:
    """Read pages of so many runs, one after another, each from where the one before ended.

    The figures are those of a page.
    """
    store = EventStore(server.redis.url)
    event = NewEvent.of("lifecycle", "started", {"title": "a run to look at"})
    for first in range(0, runs, AT_ONCE):
        store.append_each([Append(f"run-{first + n}", [event]) for n in range(AT_ONCE)])
    times, after = [], ""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    ) as connection:
        cpu, redis_cpu = server.cpu(), server.redis_cpu()
        for _ in range(PAGES):
            began = time.monotonic()
            connection.request("GET", f"/runs?limit=100{after}")
            page = json.loads(connection.getresponse().read())
            times.append(1000 * (time.monotonic() - began))
            assert len(page["runs"]) == 100
            after = f"&after={page['next']}" if page["next"] else ""
        cpu, redis_cpu = server.cpu() - cpu, server.redis_cpu() - redis_cpu
    times.sort()
    return Figures(
        events=PAGES,
        cpu_us=1e6 * cpu / PAGES,
        redis_us=1e6 * redis_cpu / PAGES,
        p50_ms=statistics.median(times),
        p99_ms=times[int(0.99 * PAGES)],
    )

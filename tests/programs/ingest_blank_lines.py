"""Reads many blank lines of several requests; prints the most memory that it took, in bytes.

It is a process of its own, since threads of other tests would count too.
"""

import tracemalloc

import fakeredis
import gevent

from app.routes.ingest.loop import IngestLoop
from app.streaming.event_store import EventStore
from tests.routes.ingest.test_loop import BLANK_LINES, BLANK_REQUESTS, chunk, open_requests

ingest_loop = IngestLoop(EventStore(client=fakeredis.FakeRedis(protocol=2)))
blank = chunk(b"\n" * BLANK_LINES + b" ")
tracemalloc.start()
with open_requests(ingest_loop, BLANK_REQUESTS) as requests:
    for request in requests:
        request.send(chunk(b" "))
    gevent.sleep(0.05)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    sending = [gevent.spawn(request.send, blank) for request in requests]
    gevent.joinall(sending, timeout=20, raise_error=True)
    with gevent.Timeout(20):
        while any(request.ingest.line <= BLANK_LINES for request in requests):
            gevent.sleep(0.01)
    print(tracemalloc.get_traced_memory()[1] - before)

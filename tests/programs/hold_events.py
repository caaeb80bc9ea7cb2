"""Holds 9,000 small events, and prints the bytes of memory for each of them: read|emitted."""

import gc
import os
import sys
import threading

import psutil

from app.client import Client
from app.streaming.appender import Appender
from tests.client.fake_gateway import FakeGateway, Request, response

EVENTS = 9000
PAGE = 1000


def page(request: Request) -> bytes:
    first = int(request.query.get("after", ["0-0"])[0].partition("-")[0]) + 1
    events = [
        {
            **{"id": f"{number}-0", "run_id": "1", "sequence": number, "timestamp": None},
            **{"event": {"category": "llm", "action": "stream"}},
            **{"data": {"content": f"word {number}"}, "source": {"host": "a"}},
        }
        for number in range(first, first + PAGE)
    ]
    last = first + PAGE - 1
    return response(200, {"events": events, "next": f"{last}-0" if last < EVENTS else None})


def read() -> object:
    with FakeGateway([page]) as gateway, Client(gateway.url) as client:
        return client.get_events(1)


def emit() -> object:
    # The first event waits for ever, and the others behind it.
    run = Appender(lambda *arguments, **options: threading.Event().wait())
    for number in range(EVENTS):
        run.emit("llm", "stream", {"content": f"word {number}"}, {"host": "a"})
    return run


def memory() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    hold = read if sys.argv[1] == "read" else emit
    first = hold()  # what comes once: pools, buffers, modules
    before = memory()
    second = hold()
    print((memory() - before) // EVENTS, flush=True)
    os._exit(0)  # the appenders would wait for ever

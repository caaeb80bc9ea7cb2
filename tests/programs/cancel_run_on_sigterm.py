"""Emits or adds events until SIGTERM; its handler emits the last event and exits with 7.

REDIS_URL RUN_ID emit|add
"""

import contextlib
import itertools
import signal
import sys
import time

import gevent
from gevent import monkey

from app.streaming.errors import RunEnded
from app.streaming.event_store import EventStore

URL, RUN_ID, WAY = sys.argv[1:]

store = EventStore(URL)
run = store.appender(RUN_ID)


def handle(*_: object) -> None:
    run.emit("lifecycle", "cancelled")
    sys.exit(7)  # waits until the event is stored


def append_without_end() -> None:
    for number in itertools.count():
        if WAY == "emit":
            run.emit("llm", "stream", number)
        else:
            store.add(RUN_ID, "llm", "stream", number)


if __name__ == "__main__":
    on_gevent = monkey.is_module_patched("threading")
    (gevent.signal_handler if on_gevent else signal.signal)(signal.SIGTERM, handle)
    print("ready", flush=True)
    with contextlib.suppress(RunEnded):  # under gevent the handler is another greenlet
        append_without_end()
    time.sleep(20)

"""Emits in 2,000 signal handlers, and in the code that they interrupt: REDIS_URL RUN_ID.

The interrupted code also flushes, and appends to the run RUN_ID-added.
"""

import signal
import sys

import gevent
from gevent import monkey

from app.streaming.event_store import EventStore

URL, RUN_ID = sys.argv[1:]
HANDLERS = 2000
INTERVAL_SECONDS = 0.0003

# Under gevent a handler of signal.signal may run in the event loop, where nothing may wait.
set_handler = gevent.signal_handler if monkey.is_module_patched("threading") else signal.signal

store = EventStore(URL, maxlen=1_000_000)
run = store.appender(RUN_ID)
handled = 0


def handle(*_: object) -> None:
    global handled
    handled += 1
    run.emit("signal", "handled", handled)
    if handled < HANDLERS:
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)


def emit_until_all_are_handled() -> int:
    emitted = 0
    while handled < HANDLERS:
        emitted += 1
        run.emit("llm", "stream", emitted)
        if emitted % 100 == 0:
            run.flush()
            store.add(f"{RUN_ID}-added", "llm", "stream", emitted)
    run.close()
    return emitted


if __name__ == "__main__":
    set_handler(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)
    emitted = emit_until_all_are_handled()
    events = store.get_events(RUN_ID)
    for category, count in (("signal", handled), ("llm", emitted)):
        data = [event.data for event in events if event.category == category]
        assert data == list(range(1, count + 1)), category
    added = [event.data for event in store.get_events(f"{RUN_ID}-added")]
    assert added == list(range(100, emitted + 1, 100))

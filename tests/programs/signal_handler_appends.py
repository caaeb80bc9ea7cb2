"""A signal handler appends 2,000 times while the main thread appends too.

Arguments: the URL of the server, and a run. Prints how many calls of the handler got
ReentrantCall.
"""

import signal
import sys

import gevent
from gevent import monkey

from app.streaming.errors import ReentrantCall
from app.streaming.event_store import EventStore

URL, RUN_ID = sys.argv[1:]
CALLS = 2000
INTERVAL_SECONDS = 0.0005

# Under gevent, a handler that signal.signal sets may run in the event loop, where nothing may
# wait.
set_handler = gevent.signal_handler if monkey.is_module_patched("threading") else signal.signal

store = EventStore(URL, maxlen=100_000)
added_by_handler = refused = 0


def handle(*_: object) -> None:
    global added_by_handler, refused
    try:
        store.add(RUN_ID, "signal", "handled", added_by_handler + 1)
        added_by_handler += 1
    except ReentrantCall:
        refused += 1
    if added_by_handler + refused < CALLS:
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)


def check_log(added_by_main: int) -> None:
    events = store.get_events(RUN_ID)
    for category, count in (("llm", added_by_main), ("signal", added_by_handler)):
        data = [event.data for event in events if event.category == category]
        assert data == list(range(1, count + 1)), category
    total = added_by_main + added_by_handler
    assert [event.sequence for event in events] == list(range(1, total + 1))


if __name__ == "__main__":
    set_handler(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)
    added_by_main = 0
    while added_by_handler + refused < CALLS:
        added_by_main += 1
        store.add(RUN_ID, "llm", "stream", added_by_main)
    check_log(added_by_main)
    print(refused)

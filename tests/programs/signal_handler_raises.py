"""A signal handler raises KeyboardInterrupt in a thread that shares a connection with others.

Argument: the URL of the server.
"""

import signal
import sys
import threading
from functools import partial

from app.streaming.errors import StoreUnavailable
from app.streaming.redis import connection, redis_url
from app.streaming.redis.availability import Availability
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import wait_until

INTERRUPTIONS = 1000
INTERVAL_SECONDS = 0.0007

client = redis_url.make_client(sys.argv[1])
shared = SharedConnection(partial(connection.make_connection, client), Availability(lambda: None))
over = threading.Event()
answered, interrupted = [0] * 4, [0] * 4


def call_all_the_time(number: int) -> None:
    while not over.is_set():
        text = b"%d-%d" % (number, answered[number])
        try:
            assert shared.call("ECHO", text) == text
        except StoreUnavailable:  # the main thread led, and was interrupted
            interrupted[number] += 1
        answered[number] += 1


def interrupt_main() -> int:
    """Call until the handler has raised often enough; return how often it has."""
    raised = 0
    while raised < INTERRUPTIONS:
        try:
            signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS)
            for _ in range(100):  # Python ignores what is raised in a destructor
                assert shared.call("ECHO", "main") == b"main"
        except KeyboardInterrupt:
            raised += 1
    return raised


def handle(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, handle)
    threads = [threading.Thread(target=call_all_the_time, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    raised = interrupt_main()
    before = list(answered)
    wait_until(
        lambda: all(now > then for now, then in zip(answered, before, strict=True)), "they go on"
    )
    over.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert shared.call("ECHO", "main") == b"main"
    print(raised)

"""A signal handler calls Redis while its own thread waits to lead the next round trip.

Arguments: the URL of the server, and a key that nobody else uses.
"""

import signal
import sys
import threading
from functools import partial

from app.streaming.errors import ReentrantCall
from app.streaming.redis import connection, redis_url
from app.streaming.redis.availability import Availability
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import wait_until

URL, KEY = sys.argv[1:]

client = redis_url.make_client(URL)
other_client = redis_url.make_client(URL)
shared = SharedConnection(partial(connection.make_connection, client), Availability(lambda: None))
leader = threading.Thread(target=shared.call, args=("BLPOP", KEY, 0))
outcomes: list[str] = []


def handle(*_: object) -> None:
    for call in (partial(shared.call, "PING"), partial(connection.call, other_client, "PING")):
        try:
            call()
        except ReentrantCall:
            outcomes.append("ReentrantCall")
    # The leader wakes the interrupted thread, which cannot lead before this returns.
    other = threading.Thread(target=connection.call, args=(client, "RPUSH", KEY, "go on"))
    other.start()
    other.join()
    leader.join()


if __name__ == "__main__":
    leader.start()
    wait_until(lambda: shared._batch and not shared._waiting, "it leads")
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    assert shared.call("ECHO", "main") == b"main"
    assert outcomes == ["ReentrantCall"] * 2, outcomes
    print("done")

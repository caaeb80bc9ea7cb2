"""What counting costs: the CPU time of what is counted of one send, and of one append.

Run it by hand: `python -m tests.bench.counting`.
"""

import time
from collections.abc import Callable

from app.metrics.answers import APPEND_COUNTS, count_response
from app.metrics.catalog import APPEND_SECONDS, ROUND_TRIP_COMMANDS
from app.streaming.feeds.delivered import count_sent
from app.streaming.wire.frame_batch import Encoded

CALLS = 200_000
ROUNDS = 5


def count_send() -> Callable[[], None]:
    """Return what a fanout counts of a batch, for each 256 clients or for the rest of them."""
    encoded = Encoded(b"", 1, None, 0, oldest_ms=int(1000 * time.time()))
    return lambda: count_sent(encoded, 200, 1)


def count_append() -> None:
    """Count a plain append, and the round trip that it had for itself."""
    APPEND_SECONDS.observe(0.001)
    ROUND_TRIP_COMMANDS.observe(1)
    APPEND_COUNTS["plain"].stored(1, repeated=False)
    count_response(201)


def microseconds(call: Callable[[], None]) -> float:
    """Return the CPU time of a call: the least of several rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.process_time() - began) / CALLS)
    return 1e6 * min(rounds)


if __name__ == "__main__":
    nothing = microseconds(lambda: None)
    print(f"a send: {microseconds(count_send()) - nothing:.2f} µs")
    print(f"an append: {microseconds(count_append) - nothing:.2f} µs")

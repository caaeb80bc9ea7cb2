"""Pauses: between attempts, between the rounds of a loop, and turns for others in long work."""

import os
import random
import threading
import time
from collections.abc import Iterator

# Threads that begin again in the background leave the program's own random numbers as they are.
_dice = random.SystemRandom()

# Parsing as much JSON as this takes about ten milliseconds, if its values are small.
TURN_BYTES = 256 * 1024


def backoff(initial: float, maximum: float) -> Iterator[float]:
    """Yield pauses in seconds without end.

    The bound starts at `initial` and doubles up to `maximum`. Each pause lies at random between
    half the bound and the bound, so that clients that failed together do not return together.
    """
    bound = initial
    while True:
        yield _dice.uniform(bound / 2, bound)
        bound = min(maximum, 2 * bound)


# Of its time, a loop that serves many works one part and rests so many, within a bound in seconds.
REST_SHARE = 2.0
MAX_REST_SECONDS = 0.025


class Pace:
    """When a loop that serves many rests, and how long: the longer the busier the worker is."""

    def __init__(self) -> None:
        self._rested = time.monotonic()

    def rest(self, began: float) -> None:
        """Give everybody else a turn, and rest, after a round that began at a monotonic time.

        The turn shows how busy the worker is. To wait for work counts as a rest. So what comes
        while there is room is served at once; else more comes together, and costs less.
        """
        time.sleep(0)
        waited = began - self._rested
        rest = REST_SHARE * (time.monotonic() - began) - waited
        if rest > 0:
            time.sleep(min(rest, MAX_REST_SECONDS))
        self._rested = time.monotonic()


# The others get several turns in a row while they have much to do, up to this long. With all the
# attacks of tests/field/test_hostile_company.py at once, health checks are then much faster.
MAX_TURN_SECONDS = 0.1
# They have much to do if a turn of theirs takes longer than this.
BUSY_SECONDS = 0.002
PAUSE_SECONDS = 0.001

# Of those that do long work, one goes on at a time: others never wait for a part of each of them.
# No wait is for ever, since a signal handler may interrupt the one that goes on.
MAX_QUEUED_SECONDS = 10.0
_queue = threading.Lock()


def give_turn() -> None:
    """Give the other threads and greenlets their turn, in the middle of long work."""
    is_next = False
    try:
        is_next = _queue.acquire(timeout=MAX_QUEUED_SECONDS)
        pause, began = 0.0, time.monotonic()
        until = began + MAX_TURN_SECONDS
        while began < until:
            time.sleep(pause)
            before, began = began, time.monotonic()
            if began - before < pause + BUSY_SECONDS:
                return
            pause = PAUSE_SECONDS  # now the loop also looks for what has come meanwhile
    finally:
        if is_next:
            _queue.release()


def _new_queue() -> None:
    global _queue
    _queue = threading.Lock()


os.register_at_fork(after_in_child=_new_queue)  # a thread of the parent may hold it


class Turns:
    """Gives the other threads and greenlets a turn whenever enough bytes were worked on.

    It belongs into every loop whose length a client decides.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = TURN_BYTES

    def spend(self, size: int) -> None:
        """Note that `size` bytes were worked on, and give a turn if it is due."""
        self._left -= size
        if self._left <= 0:
            self._left = TURN_BYTES
            give_turn()

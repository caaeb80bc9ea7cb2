"""Since when Redis was reachable, writable, and this process awake: the clock of all leases.

A producer that could not write must have its whole lease from then on. So a lease counts from the
last moment at which Redis was out of reach, refused a write, or this process was paused.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count

from ..errors import StoreUnavailable

TICK_SECONDS = 0.25

# One of so many ticks writes to Redis, in a way that stores nothing.
TICKS_PER_PROBE = 4

# If a reply or a tick comes so many seconds late, producers were held up too. No lease is shorter.
MAX_DELAY_SECONDS = 1.0

log = logging.getLogger("tailrace.lease")


class Availability:
    """Since when producers could write, as far as this process knows: the clock of all leases.

    Everything that sees a failure reports it here. A thread ticks once there are leases. A tick
    that comes late shows that the process was paused: by a signal, or with its whole machine.
    The thread also calls `probe`, which raises StoreUnavailable if Redis accepts no writes: a
    process that writes nothing itself would not know.

    A closed clock does not tick, so it knows nothing: every lease by it counts anew all the time.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._since = time.monotonic()
        self._ticked = time.monotonic(), time.time()
        self._ticks_in: int | None = None  # the process whose thread ticks
        self.closed = False

    def since(self) -> float:
        """Return the monotonic time since which nothing is known to have held up producers."""
        if self.closed:
            self.interrupted()
        self.watch()
        self.tick()  # after a pause, this thread may run before the one that ticks
        return self._since

    def interrupted(self) -> None:
        """Count every lease anew: Redis is out of reach, or has refused a write."""
        self._since = time.monotonic()

    def replied(self, delay_seconds: float) -> None:
        """Count every lease anew if a reply of Redis came so late that Redis was held up."""
        if delay_seconds > MAX_DELAY_SECONDS:
            self.interrupted()

    @property
    def ticks(self) -> bool:
        """Whether a thread of this process watches."""
        return self._ticks_in == os.getpid() and not self.closed

    def watch(self) -> None:
        """Notice everything from now on. Call it when a run has a lease."""
        # A forked child has no such thread yet.
        if self._ticks_in != os.getpid() and not self.closed:
            self._ticks_in = os.getpid()
            self._ticked = time.monotonic(), time.time()
            self.interrupted()  # nobody knows what was before
            threading.Thread(
                target=_tick, args=(weakref.ref(self),), name="tailrace-clock", daemon=True
            ).start()

    def close(self) -> None:
        """End the thread, for good."""
        self.closed = True

    def tick(self) -> None:
        """Count every lease anew if the last tick was too long ago."""
        monotonic, wall = time.monotonic(), time.time()
        last_monotonic, last_wall = self._ticked
        passed = monotonic - last_monotonic
        # The monotonic clock stands still while a machine is suspended.
        suspended = abs(wall - last_wall - passed)
        if max(passed, suspended) > MAX_DELAY_SECONDS:
            self._since = max(self._since, monotonic)  # another thread may have been later
        self._ticked = monotonic, wall  # last, so that no other thread sees it before `_since`

    def probe(self) -> None:
        """Count every lease anew if Redis accepts no writes."""
        try:
            self._probe()
        except StoreUnavailable:
            self.interrupted()
        except Exception:
            self.interrupted()
            log.exception("cannot find out whether Redis accepts writes")


def _tick(reference: "weakref.ref[Availability]") -> None:
    """Tick until the clock is closed, or nothing else refers to it."""
    for number in count():
        clock = reference()
        if clock is None or clock.closed:
            return
        clock.tick()
        if number % TICKS_PER_PROBE == 0:
            clock.probe()
        del clock
        time.sleep(TICK_SECONDS)

"""Leases: how long a run may be silent before it is lost, and the clock that they count by.

A producer that could not write must have its whole lease from then on. So a lease counts from the
last moment at which Redis was out of reach, refused a write, or this process was paused.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable

from ..errors import LogFull, NotALog, StoreUnavailable
from ..event_id import EventId
from .log_state import LogState

TICK_SECONDS = 0.25

# If a reply or a tick comes so many seconds late, producers were held up too. No lease is shorter.
MAX_DELAY_SECONDS = 1.0


class Availability:
    """Since when producers could write, as far as this process knows: the clock of all leases.

    Everything that sees a failure reports it here. A thread ticks once there are leases. A tick
    that comes late shows that the process was paused: by a signal, or with its whole machine.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._ticked = time.monotonic(), time.time()
        self._ticks_in: int | None = None  # the process whose thread ticks

    def since(self) -> float:
        """Return the monotonic time since which nothing is known to have held up producers."""
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

    def watch(self) -> None:
        """Notice pauses of the process from now on. Call it when a run has a lease."""
        if self._ticks_in != os.getpid():  # a forked child has no such thread yet
            self._ticks_in = os.getpid()
            threading.Thread(
                target=_tick, args=(weakref.ref(self),), name="tailrace-clock", daemon=True
            ).start()

    def tick(self) -> None:
        """Count every lease anew if the last tick was too long ago."""
        monotonic, wall = time.monotonic(), time.time()
        last_monotonic, last_wall = self._ticked
        passed = monotonic - last_monotonic
        # The monotonic clock stands still while a machine is suspended.
        suspended = abs(wall - last_wall - passed)
        if max(passed, suspended) > MAX_DELAY_SECONDS:
            self._since = monotonic
        self._ticked = monotonic, wall  # last, so that no other thread sees it before `_since`


def _tick(reference: "weakref.ref[Availability]") -> None:
    """Tick until nothing else refers to the clock."""
    while True:
        clock = reference()
        if clock is None:
            return
        clock.tick()
        del clock
        time.sleep(TICK_SECONDS)


class Leases:
    """The leases of the runs on one server, as far as this process can judge them.

    `mark_lost` is `LogWriter.mark_lost`.
    """

    def __init__(
        self, availability: Availability, mark_lost: Callable[[str, EventId, bool], bool]
    ) -> None:
        self.availability = availability
        self._mark_lost = mark_lost

    def remaining(self, lease_seconds: int, since: float = 0.0) -> float:
        """Return for how many seconds no run with this lease may be ended; 0 or less: now.

        `since` is the monotonic time at which the caller last saw the run change.
        """
        # Before the clock is asked. A pause between the two must not count.
        now = time.monotonic()
        return max(self.availability.since(), since) + lease_seconds - now

    def end_if_lost(self, run_id: str, state: LogState) -> bool:
        """End a run whose lease has expired, and return whether that has been done now."""
        if state.end_id is None or not self._has_expired(state):
            return False
        try:
            return self._mark_lost(run_id, state.end_id, False)
        except (StoreUnavailable, NotALog, LogFull):  # reading still works
            return False

    def _has_expired(self, state: LogState) -> bool:
        """Judge by the clocks of this process; the script judges again, by that of Redis."""
        lease = state.lease_seconds
        if lease is None or state.ended:
            return False
        wall = time.time()  # before the clock is asked, as in `remaining`
        return self.remaining(lease) <= 0 and wall * 1000 >= state.last_id.ms + lease * 1000

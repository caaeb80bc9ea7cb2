"""Leases: how long a run may be silent before it is lost."""

import time
from collections.abc import Callable

from ..errors import LogFull, NotALog, StoreUnavailable
from ..event_id import EventId
from ..redis.availability import Availability
from .log_state import LogState


class Leases:
    """The leases of all runs, as far as this process can judge them.

    `availability_of` returns the clock of a run's leases, and `mark_lost` is
    `LogWriter.mark_lost`.
    """

    def __init__(
        self,
        availability_of: Callable[[str], Availability],
        mark_lost: Callable[[str, EventId, bool], bool],
    ) -> None:
        self._availability_of = availability_of
        self._mark_lost = mark_lost

    def remaining(self, run_id: str, lease_seconds: int, since: float = 0.0) -> float:
        """Return for how many seconds the run may not be ended for this lease; 0 or less: now.

        `since` is the monotonic time at which the caller last saw the run change.
        """
        # Before the clock is asked. A pause between the two must not count.
        now = time.monotonic()
        return max(self._availability_of(run_id).since(), since) + lease_seconds - now

    def end_if_lost(self, run_id: str, state: LogState) -> bool:
        """End a run whose lease has expired, and return whether that has been done now."""
        if state.end_id is None or not self._has_expired(run_id, state):
            return False
        try:
            return self._mark_lost(run_id, state.end_id, False)
        except (StoreUnavailable, NotALog, LogFull):  # reading still works
            return False

    def _has_expired(self, run_id: str, state: LogState) -> bool:
        """Judge by the clocks of this process; the script judges again, by that of Redis."""
        lease = state.lease_seconds
        if lease is None or state.ended:
            return False
        wall = time.time()  # before the clock is asked, as in `remaining`
        return self.remaining(run_id, lease) <= 0 and wall * 1000 >= state.last_id.ms + lease * 1000

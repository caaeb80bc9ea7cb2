"""Which logs are to be archived, what expires first at the head; and the others are held."""

import logging
import time
from collections.abc import Callable, Iterator
from heapq import nsmallest
from itertools import islice

from ...streaming.errors import NotALog
from ...streaming.event_store import EventStore
from .metrics import Metrics
from .notes import Look, Notes

# A log that would expire within the one is held until the other from now. The difference is the
# time that is left for an archiver to be started again.
HOLD_BELOW_SECONDS = 1800.0
HOLD_SECONDS = 3600.0

# A run that has not ended is archived when its log has this share of its TTL left, or an hour.
IDLE_SHARE = 0.1
MAX_IDLE_SECONDS = 3600.0

# So many logs are known as due. The next look finds others.
MAX_DUE = 10_000

# So many runs are looked at together. Then the archiver rests so many times as long as it took.
CHUNK = 100
REST_SHARE = 4

log = logging.getLogger("tailrace.archive")


class DueLogs:
    """Finds the logs of a server that are to be archived, and holds those that would expire.

    Args:
        store: the event store.
        notes: what archivers note of the logs.
        hold_seconds: for how long at most a log is kept beyond its time.
        idle_ttl_seconds: how long a run that goes on is kept after its last event.
        metrics: gets what was found.
    """

    def __init__(
        self,
        store: EventStore,
        notes: Notes,
        *,
        hold_seconds: int,
        idle_ttl_seconds: int,
        metrics: Metrics,
    ):
        self._index = store.runs.index
        self._notes = notes
        self._hold_seconds = hold_seconds
        self._idle_seconds = min(MAX_IDLE_SECONDS, IDLE_SHARE * idle_ttl_seconds)
        self._metrics = metrics
        self._given_up: set[str] = set()

    def find(self, grace: float, rest: Callable[[float], object] = time.sleep) -> list[Look]:
        """Return the logs that are due now, the one that expires first at the head.

        A run is due that ended at least `grace` seconds ago. `rest` is called with the seconds to
        rest in between. Raises StoreUnavailable.
        """
        due = nsmallest(MAX_DUE, self._due(grace, rest), key=_urgency)
        self._metrics.due.set(len(due))
        self._metrics.next_expiry.set(_urgency(due[0]) if due else float("inf"))
        self._metrics.passes.inc()
        return due

    def _due(self, grace: float, rest: Callable[[float], object]) -> Iterator[Look]:
        held = 0
        at_limit: set[str] = set()
        for look in self._looks(rest):
            is_urgent = _urgency(look) <= HOLD_BELOW_SECONDS
            if look.is_archived or not self._is_due(look, grace, is_urgent):
                continue
            if is_urgent:
                held += self._hold(look, at_limit)
            yield look
        self._given_up = at_limit
        self._metrics.held.set(held)
        self._metrics.at_limit.set(len(at_limit))

    def _is_due(self, look: Look, grace: float, is_urgent: bool) -> bool:
        if look.ended:  # an id may lie in the future: others choose theirs
            return is_urgent or abs(look.silent_seconds) >= grace
        return _urgency(look) <= self._idle_seconds

    def _looks(self, rest: Callable[[float], object]) -> Iterator[Look]:
        """Yield all logs of the index."""
        places = self._index.places()
        while True:
            began = time.monotonic()
            run_ids = list(dict.fromkeys(each.run_id for each in islice(places, CHUNK)))
            if not run_ids:
                return
            found = self._notes.look(run_ids)
            yield from (look for look in found if look is not None)
            rest(REST_SHARE * (time.monotonic() - began))

    def _hold(self, look: Look, at_limit: set[str]) -> bool:
        """Keep a log from expiring. Return whether it would have expired without that."""
        try:
            held = self._notes.hold(
                look.run_id, self._hold_seconds, HOLD_BELOW_SECONDS, HOLD_SECONDS
            )
        except NotALog:  # meanwhile
            return False
        if held is None:
            return False
        if held.is_at_limit:
            at_limit.add(look.run_id)
            if look.run_id not in self._given_up:
                log.error(
                    "run %s is not archived, and its log expires in %d seconds: "
                    "it cannot be held longer than ARCHIVE_HOLD_SECONDS",
                    look.run_id,
                    look.expires_in,
                )
        return held.expires_at > held.limit_at - 1000 * self._hold_seconds


def _urgency(look: Look) -> float:
    return float("inf") if look.expires_in is None else look.expires_in

"""What a client is owed at a place in a run's logs: events, or a notice in their place."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

from app.streaming.event_id import EventId
from tests.schedules.history import Entry, History, Log, State
from tests.schedules.places import Place
from tests.schedules.record import Selection

_id = attrgetter("id")


class Debts:
    """Tells what a client misses, as text, or None if it misses nothing.

    An entry that was removed before it was sent is no debt once a notice has come.
    """

    def __init__(self, history: History, selection: Selection):
        self._history = history
        self._selection = selection

    def now(self, place: Place) -> str | None:
        """What a client is owed when all is quiet."""
        log = self._history.log
        if place.must_be_told or (place.log is not None and place.log is not log):
            return "reset missed"
        return self._missed(place, log.entries) if log else None

    def before_event(self, place: Place, entry: Entry, at: float) -> str | None:
        """What was left out if a client of a place got an entry next, at a time."""
        if place.log not in (entry.log, None) or place.must_be_told:
            return "reset missed: the event is of another log"
        if entry.id <= place.cursor:
            return "doubled"
        until = bisect_right(entry.log.entries, entry.id, key=_id) - 1
        return self._missed(place, entry.log.entries, until, at)

    def up_to(self, place: Place, log: Log, event_id: EventId, at: float = math.inf) -> str | None:
        """What was left out if a client of a place has reached an id of a log, at a time."""
        until = bisect_right(log.entries, event_id, key=_id)
        return self._missed(place, log.entries, until, at)

    def in_state(self, place: Place, state: State) -> str | None:
        """What a client was owed when the key had a state."""
        if place.log is not state.log:
            return "reset missed"
        return self.up_to(place, state.log, state.last_id)

    def is_at(self, place: Place, event_id: EventId, at: float) -> bool:
        """Return whether a client is as good as at an id: it is owed nothing before."""
        logs = [place.log] if place.log else self._history.logs
        return event_id >= place.cursor and any(
            self.up_to(place, log, event_id, at) is None for log in logs
        )

    def holds_older(self, place: Place, than: float, at: float) -> bool:
        """Return whether the log has entries for a client that were there before a time."""
        log = place.log or self._history.log
        if any(state.log is not log for state in self._history.states_between(than, at)):
            return False
        return log is not None and any(
            entry.added.ended < than
            and (entry.removed is None or entry.removed.began > at)
            and self._selection.passes(entry.category, entry.terminal)
            for entry in self._after(place, log.entries)
        )

    def _missed(
        self, place: Place, entries: list[Entry], until: int | None = None, at: float = math.inf
    ) -> str | None:
        for entry in self._after(place, entries, until):
            if not self._selection.passes(entry.category, entry.terminal):
                continue
            if entry.removed is None or entry.removed.began > at:
                return f"lost: {entry.number} was in the log"
            if entry.removed.began >= place.excused:
                return f"gap missed: {entry.number} was removed"
        return None

    def _after(
        self, place: Place, entries: list[Entry], until: int | None = None
    ) -> Iterator[Entry]:
        first = bisect_right(entries, place.cursor, key=_id)
        return (entries[at] for at in range(first, len(entries) if until is None else until))

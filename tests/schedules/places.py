"""Where in a run's logs a client may stand."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from app.streaming.event_id import ZERO, EventId
from tests.schedules.history import Entry, Log, State


@dataclass(frozen=True)
class Place:
    """A client was sent everything of a log up to a cursor, or was told of what it misses.

    Attributes:
        log: None if the client stands before whichever log comes.
        excused: a removal that began before this moment needs no more notice.
        must_be_told: whether a notice must come before the next event.
        unsure: whether the gateway cannot know that nothing is missing, since the client's last
            event is gone too.
    """

    log: Log | None
    cursor: EventId
    excused: float = -math.inf
    must_be_told: bool = False
    unsure: bool = False

    def at(self, log: Log | None, cursor: EventId) -> "Place":
        return replace(self, log=log, cursor=cursor, unsure=False)

    def told(self, at: float) -> "Place":
        """Return the place after a gap notice."""
        return replace(self, excused=at, must_be_told=False, unsure=False)


def places_at(start: str, known: list[Place], states: Iterable[State], until: float) -> list[Place]:
    """Return where a stream may start that was opened while the log had one of some states.

    `known` are the places of the client if it resumes from an id. The stream's first item came
    at `until`.
    """
    if "-" in start:
        return list(_resumed(known, states))
    beginning, states = Place(None, ZERO, until), list(states)
    if start == "earliest":
        return [beginning]
    # A stream whose log is replaced while it opens may start with the new log.
    places = [beginning] if len({state.log for state in states}) > 1 else []
    if start == "latest":
        return places + [_end_of(state) for state in states]
    return [*places, *_before_tail(int(start.removeprefix("tail=")), states, until)]


def _end_of(state: State) -> Place:
    return Place(state.log, state.last_id, state.change.ended)


def _before_tail(count: int, states: list[State], until: float) -> Iterator[Place]:
    """Yield each place before the last entries: up to an earlier end, of those retained later."""
    for index, state in enumerate(states):
        if state.log is None:
            yield Place(None, ZERO, until)
            continue
        for end in {earlier.last_id for earlier in states[: index + 1] if earlier.log is state.log}:
            entries = [entry for entry in state.retained if entry.id <= end]
            yield _before_last(count, state, entries, end, until)


def _before_last(
    count: int, state: State, entries: list[Entry], end: EventId, until: float
) -> Place:
    if count == 0:
        return Place(state.log, end, state.change.ended)
    if len(entries) <= count:
        return Place(None, ZERO, until)
    return Place(state.log, entries[-count - 1].id, state.change.ended)


def _resumed(known: list[Place], states: Iterable[State]) -> Iterator[Place]:
    for state in states:
        for place in known:
            is_first = not state.retained or state.retained[0].id > place.cursor
            unsure = state.log is place.log and place.cursor > ZERO and is_first
            yield Place(place.log, place.cursor, unsure=unsure)
            if place.log is None or state.log in (None, place.log):
                continue
            # An id does not tell of which log it is. A log that has the same id seems to be the
            # same, and so may one that lost entries.
            if state.log.holds(place.cursor):
                yield Place(state.log, place.cursor)
            if any(entry.removed for entry in state.log.entries):
                yield Place(state.log, place.cursor, must_be_told=True, unsure=True)

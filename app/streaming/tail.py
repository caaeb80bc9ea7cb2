"""The tail of a run's log: waits for events, and tells what is missing before them."""

import logging
import time
from collections.abc import Iterator

from .backoff import backoff
from .errors import StoreUnavailable
from .event import REQUEST_CATEGORY, Event
from .event_id import ZERO, EventId
from .log.continuity import Notice, Stretch, continues, stretches
from .log.log_state import LogState
from .log.position import Position
from .log.reader import MAX_READ_COUNT, LogReader
from .log.replies import parse_event, parse_mark

# How often a reader of requests looks whether the run has ended, while nothing comes.
LOOK_SECONDS = 5.0

INITIAL_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

log = logging.getLogger("tailrace.requests")


class Tail:
    """Follows one run by blocking reads.

    `position` is that of a caller who has got everything that `wait` has returned.
    """

    def __init__(self, reader: LogReader, run_id: str, position: Position, last_id: EventId = ZERO):
        """`last_id` is that of the log, if something stands between the position and its end."""
        self.position = position
        self._last_id = last_id
        self._reader = reader
        self._run_id = run_id

    def wait_after(self, cursor: EventId, deadline: float | None) -> list[Event]:
        """Wait as `wait` does for the events after an id, with a notice if that is not the log's.

        A notice comes only before events: the caller keeps the id, and would get it again at once.
        """
        way, state = self._reader.locate(self._run_id, cursor)
        self.position, self._last_id = way[-1].end, state.last_id
        events = [self._notice(each.notice, each, state) for each in way if each.notice]
        while not any(event.id for event in events):
            more = self.wait(deadline)
            if not more:
                return []
            events += more
        return events

    def wait(self, deadline: float | None) -> list[Event]:
        """Return what comes after the position, as soon as there is any, or [] at the deadline.

        A notice is an event of the category `gateway` whose id is None. The deadline is a
        monotonic time; None waits for ever.
        """
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            events = self._read(left)
            if events or (left is not None and left <= 0):
                return events

    def _read(self, left: float | None) -> list[Event]:
        if self.position.id < self._last_id:
            left = 0.0  # Redis may have nothing to send, since the archive has it
        entries, is_here = self._reader.read_blocking(self._run_id, self.position, left)
        marks = [parse_mark(entry) for entry in entries]
        if marks and is_here and continues(self.position, marks):
            last = marks[-1]
            self.position = Position(last.epoch, last.cursor, last.sequence)
            return [parse_event(self._run_id, entry) for entry in entries]
        # One more, for the entry at the position itself.
        entries, state = self._reader.read(self._run_id, self.position.id, MAX_READ_COUNT + 1)
        marks = [parse_mark(entry) for entry in entries]
        self._last_id = state.last_id
        events: list[Event] = []
        whole = len(entries) <= MAX_READ_COUNT
        for each in stretches(self.position, marks, state, whole=whole):
            if each.notice:
                events.append(self._notice(each.notice, each, state))
            events += (parse_event(self._run_id, e) for e in entries[each.first : each.last])
            self.position = each.end
        return events

    def _notice(self, notice: Notice, way: Stretch, state: LogState) -> Event:
        data = state.control_data(str(way.start.id))
        return Event.control(self._run_id, notice, data)


def requests_of(reader: LogReader, run_id: str, after: EventId | None) -> Iterator[Event]:
    """Yield each event of the category `request` once, as it comes, until the run has ended.

    They are those after an id, None for all. It goes on when Redis is back after an outage.
    """
    tail: Tail | None = None
    pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
    while True:
        try:
            tail = tail or Tail(reader, run_id, *_position(reader, run_id, after))
            events = tail.wait(time.monotonic() + LOOK_SECONDS)
            may_have_ended = not events or events[-1].terminal
            state = reader.state(run_id) if may_have_ended else None
        except StoreUnavailable as error:
            log.warning("the requests of run %s cannot be read now: %s", run_id, error)
            time.sleep(next(pauses))
            continue
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        yield from (event for event in events if event.category == REQUEST_CATEGORY)
        if state is not None and state.ended and state.last_id <= tail.position.id:
            return


def _position(reader: LogReader, run_id: str, after: EventId | None) -> tuple[Position, EventId]:
    """Return the position after an id, or the beginning of the log, and the last id of the log."""
    if after is None:
        state = reader.state(run_id)
        return state.beginning, state.last_id
    way, state = reader.locate(run_id, after)
    return way[-1].end, state.last_id

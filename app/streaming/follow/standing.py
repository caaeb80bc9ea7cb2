"""Where an open stream is: what it is doing, what it has sent, and how far it is behind."""

from collections.abc import Iterable
from typing import NamedTuple

from ..log.position import Position

# Of a stream of many runs; a cut one would be of no use.
MAX_CURSOR_LENGTH = 1024


class Lag(NamedTuple):
    """How far a client is behind the newest event that the worker knows; None if nobody knows.

    `seconds` lie between the times of the two events.
    """

    events: int | None
    seconds: float | None


UNKNOWN_LAG = Lag(None, None)


class Standing(NamedTuple):
    """Where an open stream is.

    `events` and `bytes` were sent, or of an ingest received and stored. `lines` are those of an
    ingest. `unsent_bytes` wait for the client. `cursor` is that of the last event.
    """

    state: str
    events: int
    bytes: int
    cursor: str | None = None
    lag: Lag = UNKNOWN_LAG
    unsent_bytes: int = 0
    lines: int | None = None

    def fields(self) -> dict[str, object]:
        """Return what a line of the log says of a stream at its end."""
        lines = {} if self.lines is None else {"lines": self.lines}
        return {
            **lines,
            "events": self.events,
            "bytes": self.bytes,
            "cursor": self.cursor,
            "lag_events": self.lag.events,
            "lag_seconds": self.lag.seconds,
        }


def shown_cursor(cursor: object) -> str | None:
    """Return a cursor as text, None if it is too long to be shown."""
    text = str(cursor)
    return text if len(text) <= MAX_CURSOR_LENGTH else None


def lag_between(position: Position, newest: Position) -> Lag:
    """Return how far a position is behind the newest one of its log."""
    if position.epoch != newest.epoch and not position.is_start:
        return UNKNOWN_LAG
    events = None
    if position.sequence is not None and newest.sequence is not None:
        events = max(0, newest.sequence - position.sequence)
    if position.is_start:
        return Lag(events, None)
    return Lag(events, max(0, newest.id.ms - position.id.ms) / 1000)


def lag_of_all(lags: Iterable[Lag]) -> Lag:
    """Return the lag of several runs together: all events, and the longest time."""
    known = list(lags)
    events = [each.events for each in known if each.events is not None]
    seconds = [each.seconds for each in known if each.seconds is not None]
    return Lag(sum(events) if events else None, max(seconds, default=None))

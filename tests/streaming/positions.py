"""Positions and states of a log whose events have the ids 1-0, 2-0 … and the same sequences."""

from app.streaming.event_id import EventId
from app.streaming.log.log_state import LogState
from app.streaming.log.position import Position

EPOCH, OTHER_EPOCH = b"1", b"2"


def at(number: int, epoch: bytes = EPOCH) -> Position:
    """The position after an event."""
    return Position(epoch, EventId(number, 0), number)


def log(last: int, epoch: bytes = EPOCH, **changes: object) -> LogState:
    """The state of a log of which every event is retained."""
    known = {
        "length": last,
        "first_id": EventId(1, 0),
        "first_sequence": 1,
        "last_id": EventId(last, 0),
        "last_sequence": last,
        "ended": False,
        "end_id": EventId(last, 0),
        "epoch": epoch,
    }
    return LogState(**known | changes)

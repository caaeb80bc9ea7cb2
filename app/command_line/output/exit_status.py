"""The exit statuses of the client commands; those from 64 on are named as in sysexits.h."""

from ...streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    NotAllowed,
    StoreUnavailable,
    StreamingError,
)

COMPLETED = 0
FAILED = 1
LOST = 2
USAGE = 64
REFUSED = 65
UNAVAILABLE = 69
SOFTWARE = 70
NOT_WRITTEN = 74
NOT_ALLOWED = 77
INTERRUPTED = 130
OUTPUT_CLOSED = 141

_BY_ACTION = {"completed": COMPLETED, "failed": FAILED, "cancelled": FAILED, "lost": LOST}


def status_of(error: StreamingError) -> int:
    """Return the exit status of a command that an error has ended."""
    if isinstance(error, NotAllowed):
        return NOT_ALLOWED
    if isinstance(error, StoreUnavailable):
        return UNAVAILABLE
    if isinstance(error, InvalidInput) and not isinstance(error, InvalidEvent | EventTooLarge):
        return USAGE
    return REFUSED


def status_of_end(action: str | None) -> int:
    """Return the exit status for a run that ended with `lifecycle.<action>`, None if unknown."""
    return _BY_ACTION.get(action or "", REFUSED)

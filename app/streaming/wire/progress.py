"""The progress of a stream: when it must say how far it has come, though no event says it.

A client resumes from the last `id:` line. If a filter drops what comes after that, the client
would resume from ever further back, until the log has trimmed that position.
"""

from ..event_id import ZERO, Cursor
from ..log.position import Place
from .frame import Frame
from .frame_batch import Encoded

# After this many dropped events a progress event is sent; after fewer, at the next heartbeat.
MAX_DROPPED = 1000


class Progress:
    """The last `id:` line that some clients got, None for none, and what was dropped since."""

    __slots__ = ("_dropped", "last_id")

    def __init__(self) -> None:
        self.last_id: Cursor | None = None
        self._dropped = 0

    def add(self, sent: Encoded, end: Place) -> bool:
        """Note what was sent up to a position; return whether a progress event is due there."""
        if sent.last_id is not None:
            self.last_id, self._dropped = sent.last_id, sent.dropped
        else:
            self._dropped += sent.dropped
        if self._dropped < MAX_DROPPED:
            return False
        self.note_id(end.id)
        return True

    def note_id(self, cursor: Cursor) -> None:
        """Note an `id:` line that was sent."""
        self.last_id, self._dropped = cursor, 0


def progress_frame(run_id: str, cursor: Cursor) -> Frame:
    """Return the control event that tells a client how far its stream has come."""
    return Frame.control(run_id, "progress", {"cursor": str(cursor)}, cursor=ZERO, id_line=cursor)

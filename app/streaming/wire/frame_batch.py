"""The batch: consecutive frames of a run, encoded once for each stream format."""

from ..event import RESERVED_CATEGORY
from ..event_id import EventId
from .formats import StreamFormat
from .frame import Frame

# About how much memory a frame takes beside its bytes.
BYTES_PER_FRAME = 400

# A batch keeps its bytes for this many stream formats; for others it encodes them each time.
MAX_ENCODINGS = 4


def count_events(frames: list[Frame]) -> int:
    """Return how many frames are events of the run, not control events."""
    return sum([frame.category != RESERVED_CATEGORY for frame in frames])


def http_chunk(body: bytes) -> bytes:
    """Return bytes as one chunk of a chunked body (RFC 9112, section 7.1).

    No bytes make no chunk, since an empty chunk would end the body.
    """
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


class FrameBatch:
    """Every frame of a run after `start` (exclusive) up to `end` (inclusive).

    Attributes:
        start: the cursor of a client that gets the batch next.
        end: the cursor of a client that has received the batch.
        events: how many frames are events, not control events.
        size: the bytes of the frames, as SSE.
        cost: about how much memory the batch takes, in bytes.
    """

    __slots__ = ("_encoded", "cost", "end", "events", "frames", "size", "start")

    def __init__(self, start: EventId, frames: list[Frame]):
        self.start = start
        self.frames = frames
        self.end = frames[-1].cursor
        self.events = count_events(frames)
        self.size = sum([len(frame.typed) for frame in frames])
        self.cost = 2 * self.size + BYTES_PER_FRAME * len(frames)
        self._encoded: list[tuple[tuple[StreamFormat, bool], tuple[bytes, int]]] = []

    def encode(self, stream_format: StreamFormat, chunked: bool = False) -> tuple[bytes, int]:
        """Return the bytes of the batch in a stream format, and the number of events in them.

        If `chunked`, the bytes are one HTTP chunk.
        """
        key = stream_format, chunked
        for known, encoded in self._encoded:  # few, and mostly the same object
            if known == key:
                return encoded
        frames, encode_frame = stream_format.filter.select(self.frames), stream_format.wire.frame
        body = b"".join([encode_frame(frame) for frame in frames])
        events = self.events if frames is self.frames else count_events(frames)
        encoded = http_chunk(body) if chunked else body, events
        if len(self._encoded) < MAX_ENCODINGS:
            self._encoded.append((key, encoded))
        return encoded

    def after(self, cursor: EventId) -> "FrameBatch":
        """Return the part of the batch after a cursor, which must lie before its end."""
        if cursor <= self.start:
            return self
        return FrameBatch(cursor, [frame for frame in self.frames if frame.cursor > cursor])

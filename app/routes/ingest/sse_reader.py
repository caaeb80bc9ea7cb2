"""The reader of lines that are Server-Sent Events, each of which becomes an event of the run."""

from ...streaming.wire.dialects import Dialect
from .chunks import Chunks
from .line_reader import ReadEvent
from .sse_parser import LineFeeds, SseParser


class SseReader:
    """Reads the Server-Sent Events of a body in a dialect."""

    __slots__ = ("_chunks", "_line_feeds", "_parser", "_refused", "incomplete", "needs_end")

    completes_last_line = False

    def __init__(self, dialect: Dialect, max_event_bytes: int) -> None:
        self.incomplete, self.needs_end = False, True
        self._refused = 0  # where the event begins that could not be stored
        self._line_feeds = LineFeeds()
        self._parser = SseParser(max_event_bytes)
        self._chunks = Chunks(dialect, max_event_bytes)

    @property
    def line(self) -> int:
        """The number of the line where the first event begins that was not returned."""
        return self._chunks.line or self._refused or self._parser.line

    @property
    def size(self) -> int:
        """The number of bytes that it holds, as they came."""
        return self._parser.size + self._chunks.size

    def line_feeds(self, piece: bytes) -> bytes:
        """Return the next bytes of the body with LF for every CR and CRLF."""
        return self._line_feeds.convert(piece)

    def read(self, line: bytes | bytearray, events: list[ReadEvent]) -> None:
        """Add what a line completes."""
        event = self._parser.read(line)
        if event is not None:
            self._refused = event.line
            self._chunks.add(event, events)
            self._refused = 0

    def end(self, events: list[ReadEvent], *, broken: bool, unfinished: bool = False) -> None:
        """Add the last event; an event that is not complete is dropped (section 9.2.6)."""
        if not broken and (unfinished or self._parser.has_begun):
            self.incomplete = True
        self._chunks.end(self._parser.line, events, broken=broken)
        self.needs_end = False

    def clear(self) -> None:
        """Drop what it holds."""
        self._parser.clear()
        self._chunks.clear()
        self.needs_end = False

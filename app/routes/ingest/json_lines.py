"""The reader of lines that are events as JSON (NDJSON)."""

from ..schemas import EventSchema
from ..writing.exact_json import parse_json
from .line_reader import ReadEvent

_event_schema = EventSchema()


class JsonLines:
    """Reads lines that are events as JSON; blank ones only show that the producer is alive."""

    __slots__ = ("_max_event_bytes", "line")

    completes_last_line = True
    incomplete = needs_end = False
    size = 0

    def __init__(self, max_event_bytes: int) -> None:
        self.line = 1
        self._max_event_bytes = max_event_bytes

    def line_feeds(self, piece: bytes) -> bytes:
        """Return the bytes as they are: only LF ends a line."""
        return piece

    def read(self, line: bytes | bytearray, events: list[ReadEvent]) -> None:
        """Add the event of a line."""
        if line.strip(b" \t\r"):
            limit = self._max_event_bytes
            new_event, lease = _event_schema.new_event_from(parse_json(line, limit), limit)
            events.append(ReadEvent(self.line, new_event, lease))
        self.line += 1

    def end(self, events: list[ReadEvent], *, broken: bool, unfinished: bool = False) -> None:
        """Do nothing: every event has its line."""

    def clear(self) -> None:
        """Do nothing: it holds nothing."""

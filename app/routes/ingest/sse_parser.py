"""Server-Sent Events in a body, line by line (section 9.2 of the HTML Living Standard)."""

from typing import NamedTuple

from ...streaming.errors import EventTooLarge
from ...streaming.wire.dialects import MESSAGE
from ..problems import FieldError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One dispatched event, and the number of the line where it begins.

    `data` is UTF-8. `size` is the number of bytes of the name and the data, as they came.
    """

    line: int
    name: str
    data: bytes
    size: int


class LineFeeds:
    """Replaces every CR and CRLF by LF, in pieces of any size."""

    __slots__ = ("_after_cr",)

    def __init__(self) -> None:
        self._after_cr = False

    def convert(self, piece: bytes) -> bytes:
        """Return the next piece. A CR counts at once: its LF may come much later."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if b"\r" not in piece:
            return piece
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class SseParser:
    """Collects the fields of one event after the other.

    `next_line` is the number of the line that comes next.
    """

    __slots__ = ("_begins", "_data", "_max_event_bytes", "_name", "_name_bytes", "next_line")

    def __init__(self, max_event_bytes: int) -> None:
        """`max_event_bytes` is how large the name and the data of an event may be together."""
        self.next_line = 1
        self._max_event_bytes = max_event_bytes
        self._begins = 0
        self._name = ""
        self._name_bytes = 0
        self._data = bytearray()  # each line with its LF

    @property
    def has_begun(self) -> bool:
        """Whether an event has begun and is not complete."""
        return self._begins > 0

    @property
    def line(self) -> int:
        """The number of the line where the event begins that is not complete."""
        return self._begins or self.next_line

    @property
    def size(self) -> int:
        """The number of bytes that it holds."""
        return len(self._data) + self._name_bytes

    def read(self, line: bytes | bytearray) -> SseEvent | None:
        """Return the event that a line completes, if it does.

        Raises FieldError (400) for a line that is not UTF-8, and EventTooLarge.
        """
        if self.next_line == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            event = self._dispatch()
        else:
            event = None
            _check_utf8(line)
            self._read_field(line)
        self.next_line += 1
        return event

    def _read_field(self, line: bytes | bytearray) -> None:
        name, _, value = line.partition(b":")
        if name not in (b"data", b"event"):  # a comment has an empty name
            return
        value = value.removeprefix(b" ")
        self._begins = self._begins or self.next_line
        others = len(self._data) if name == b"event" else self.size
        if others + len(value) > self._max_event_bytes:
            raise EventTooLarge("data", f"an event is at most {self._max_event_bytes} bytes")
        if name == b"data":
            self._data += value
            self._data += b"\n"
        else:
            self._name = value.decode()
            self._name_bytes = len(value)

    def _dispatch(self) -> SseEvent | None:
        event = None
        if self._data:
            data = bytes(self._data[:-1])
            event = SseEvent(self._begins, self._name or MESSAGE, data, self.size)
        self.clear()
        return event

    def clear(self) -> None:
        """Drop the event that has begun."""
        self._begins = self._name_bytes = 0
        self._name = ""
        self._data = bytearray()


def _check_utf8(line: bytes | bytearray) -> None:
    try:
        line.isascii() or line.decode()
    except UnicodeDecodeError as error:
        raise FieldError(400, "body", f"is not UTF-8: {error.reason}") from None

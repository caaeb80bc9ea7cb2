"""What turns the lines of a body into new events: what the code that reads a body asks of it."""

from typing import NamedTuple, Protocol

from ...streaming.new_event import NewEvent


class ReadEvent(NamedTuple):
    """A new event, the number of the line where it begins, and its own lease in seconds."""

    line: int
    new_event: NewEvent
    lease: int | None


class LineReader(Protocol):
    """Turns the lines of one body into new events.

    `completes_last_line`: whether the last line of a body needs no line break. `line`: the number
    of the line where the first event begins that was not returned. `size`: the number of bytes
    that it holds. `needs_end`: whether `end` must still be called. `incomplete`: whether the body
    has ended within an event.
    """

    completes_last_line: bool
    incomplete: bool

    @property
    def line(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def needs_end(self) -> bool: ...

    def line_feeds(self, piece: bytes) -> bytes:
        """Return the next bytes of the body with LF for every line break."""

    def read(self, line: bytes | bytearray, events: list[ReadEvent]) -> None:
        """Add what a line completes to `events`; raises an error if it cannot be stored."""

    def end(self, events: list[ReadEvent], *, broken: bool, unfinished: bool = False) -> None:
        """Add what the end of the body gives; safe to repeat.

        `broken`: it was not the end that its producer meant. `unfinished`: its last line has no
        line break.
        """

    def clear(self) -> None:
        """Drop what it holds."""

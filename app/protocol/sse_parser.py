"""Parses Server-Sent Events (section 9.2 of the HTML Living Standard)."""

import codecs
import re
from typing import NamedTuple

# Only these end a line; str.splitlines also splits at others.
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
# More digits would be over ten days.
_MILLISECONDS = re.compile(r"[0-9]{1,9}")


class Message(NamedTuple):
    """One dispatched event. `last_event_id` is the last id in the stream up to this event."""

    event: str
    data: str
    last_event_id: str


class SseParser:
    """Parses one stream, in pieces of any size.

    `retry_seconds` is how long the server asks to wait before the next connection, or None. A
    stream that resumes another one starts with its `last_event_id`.
    """

    def __init__(self, last_event_id: str = ""):
        self.retry_seconds: float | None = None
        self._last_event_id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._unfinished: list[str] = []
        self._after_cr = False
        # "-sig" drops a byte order mark at the beginning, as the standard asks.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")

    def feed(self, piece: bytes) -> list[Message]:
        """Take the next piece of the stream, and return the events that it completes."""
        text = self._decoder.decode(piece)
        if not text:
            return []
        if self._after_cr:  # the CR has already ended that line
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        first, *others = _LINE_BREAK.split(text)
        self._unfinished.append(first)
        messages = []
        for unfinished in others:
            message = self._read_line("".join(self._unfinished))
            self._unfinished = [unfinished]
            if message is not None:
                messages.append(message)
        return messages

    def _read_line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._last_event_id = value
            case "retry" if _MILLISECONDS.fullmatch(value):
                self.retry_seconds = int(value) / 1000
        return None

    def _dispatch(self) -> Message | None:
        event, data = self._event, self._data
        self._event, self._data = "", []
        if not data:
            return None
        return Message(event or "message", "\n".join(data), self._last_event_id)

"""The payload of an event alone: its data as Server-Sent Events, without what Tailrace adds.

The clients of models and their frameworks expect this. What they do not know comes as a comment.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import orjson

from .formats import EventStream
from .frame import Frame

_NULL = msgspec.Raw(b"null")

# Where text/event-stream may end a line (HTML Living Standard, section 9.2.5).
_LINE_BREAK = re.compile("\r\n|\r|\n")


class _Sse(msgspec.Struct):
    """What the source of an event says that came as a Server-Sent Event."""

    event: str | None = None
    text: bool = False


class _Source(msgspec.Struct):
    sse: _Sse | None = None


class _Document(msgspec.Struct):
    data: msgspec.Raw = _NULL
    source: msgspec.Raw = _NULL


_read_document = msgspec.json.Decoder(_Document).decode
_read_source = msgspec.json.Decoder(_Source).decode
_NO_SSE = _Sse()


class Payload(NamedTuple):
    """The data of an event, and what its `event:` line was, if it came with one.

    `json` is the data as it is stored; `is_text` says that it came as a text that is no JSON.
    """

    json: bytes
    is_text: bool
    name: str | None

    @property
    def lines(self) -> bytes:
        """Return the `data:` lines."""
        if not self.is_text:
            return b"data: %b\n" % self.json
        text: str = orjson.loads(self.json)
        return b"".join([b"data: %b\n" % line.encode() for line in _LINE_BREAK.split(text)])


def payload_of(event: bytes) -> Payload | None:
    """Return the payload of an event as JSON, None if its data is null.

    Where it is nested too deep for the decoder, the payload is the whole event as a text.
    """
    try:
        document = _read_document(event)
    except RecursionError:  # the data is another program's: Tailrace stores less deep data
        return Payload(orjson.dumps(event.decode()), False, None)
    json = bytes(document.data)
    if json == b"null":
        return None
    sse = _NO_SSE if document.source == _NULL else _sse(document.source)
    return Payload(json, sse.text and json.startswith(b'"'), sse.event)


def _sse(source: msgspec.Raw) -> _Sse:
    try:
        return _read_source(source).sse or _NO_SSE
    except (msgspec.DecodeError, RecursionError):  # the source is of another producer
        return _NO_SSE


@dataclass(frozen=True, slots=True)
class PayloadEvents(EventStream):
    """The data of each event as a Server-Sent Event, with the event's id.

    An event whose data is null has no payload, and is left out. Control events are comments.
    """

    typed: bool = False

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        if frame.is_control:
            return comment(frame)
        return payload_event(frame.typed[: frame.name_at], frame.json)


def payload_event(id_line: bytes, event: bytes) -> bytes:
    """Return the payload of an event as a Server-Sent Event, nothing if its data is null."""
    payload = payload_of(event)
    return b"" if payload is None else b"%b%b\n" % (id_line, payload.lines)


def comment(frame: Frame) -> bytes:
    """Return a control event as a comment."""
    return b": gateway.%b %b\n" % (str(frame.action).encode(), frame.json)

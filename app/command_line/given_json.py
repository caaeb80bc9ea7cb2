"""JSON that a user gives: in an argument, on standard input, or in a line. It is kept as it is."""

import sys
from typing import Any, BinaryIO, NamedTuple

import click
import msgspec
import orjson

from ..streaming.errors import InvalidEvent
from ..streaming.event import parse_traceparent
from ..streaming.event_json import read_json
from ..streaming.new_event import NewEvent, check_names

STDIN = "-"

# The gateway takes no longer line either.
MAX_LINE_BYTES = 4 * 1024 * 1024

_GZIP = b"\x1f\x8b"


class _Names(msgspec.Struct):
    category: Any = None
    action: Any = None


class _Line(msgspec.Struct):
    """An event in the shape in which it is appended, or in the one in which it is read."""

    event_category: Any = None
    event_action: Any = None
    event: _Names | None = None
    id: str | None = None
    run_id: str | None = None
    sequence: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    source: msgspec.Raw = msgspec.Raw(b"null")
    traceparent: str | None = None


class GivenEvent(NamedTuple):
    """What a line says of an event. The id, the run and the sequence may be missing."""

    id: str | None
    run_id: str | None
    sequence: int | None
    category: Any
    action: Any
    data: bytes
    source: bytes
    traceparent: str | None

    def new_event(self) -> NewEvent:
        """Return what to append of it. Raises InvalidEvent for its names."""
        new_event = new_event_of(self.category, self.action, self.data, self.source)
        return new_event.within(parse_traceparent(self.traceparent or ""))


_decoder = msgspec.json.Decoder(_Line)


def event_of_line(line: bytes | None) -> GivenEvent:
    """Return the event of a line. Its data and source keep their bytes.

    None stands for a line that is too long. Numbers of any size and spelling stay what they are:
    it is the gateway that refuses some. Raises InvalidEvent.
    """
    if line is None:
        raise InvalidEvent("line", f"has more than {MAX_LINE_BYTES} bytes")
    if line.startswith(_GZIP):
        raise InvalidEvent("line", "is compressed with gzip; use gunzip -c")
    try:
        _, text = read_json(line)
        given = _decoder.decode(text)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent("line", f"is not JSON: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidEvent("line", f"is not an event: {error}") from None
    category, action = given.event_category, given.event_action
    if given.event is not None:
        category, action = given.event.category, given.event.action
    return GivenEvent(
        given.id,
        given.run_id,
        given.sequence,
        category,
        action,
        bytes(given.data),
        bytes(given.source),
        given.traceparent,
    )


def new_event_of(category: Any, action: Any, data: bytes, source: bytes = b"null") -> NewEvent:
    """Return a new event of data and source in JSON. Raises InvalidEvent for its names."""
    check_names(category, action)
    return NewEvent(category, action, data, b"" if source == b"null" else source)


def standard_input() -> BinaryIO:
    """Return standard input. Raises UsageError if it is closed."""
    if sys.stdin is None or sys.stdin.closed:
        raise click.UsageError("standard input is closed")
    return sys.stdin.buffer


def json_argument(option: str, text: str, hint: str = "") -> bytes:
    """Return the JSON of an option, of standard input for `-`. Raises UsageError."""
    raw = _given(text)
    try:
        _, mended = read_json(raw.strip())
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{option}: is not JSON: {error}{hint}") from None
    return bytes(mended)


def text_argument(text: str) -> bytes:
    """Return a text of an option, of standard input for `-`, as JSON."""
    raw = _given(text)
    return orjson.dumps(raw.decode("utf-8", "replace"))


def _given(text: str) -> bytes:
    return standard_input().read() if text == STDIN else text.encode("utf-8", "surrogateescape")

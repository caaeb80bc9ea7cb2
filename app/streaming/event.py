"""The event: one immutable entry of a run's log, what it may hold, and its JSON."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from .errors import InvalidInput
from .event_json import is_json, write_json

LIFECYCLE = "lifecycle"
TERMINAL_ACTIONS = ("completed", "failed", "cancelled", "lost")
RESERVED_CATEGORY = "gateway"

# What viewers ask of the producer.
REQUEST_CATEGORY = "request"

_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
# A category or an action. It ends in \Z for callers that use `match`.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
NAME_RULE = "1 to 64 of A-Z a-z 0-9 _ -"
_INTEGER = re.compile(rb"[0-9]{1,18}")

# Section 3.2 (level 2): version, trace-id, parent-id, trace-flags; a later version may have more.
_TRACEPARENT = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL
)
_ZEROS = re.compile(r"0+\Z")
_KNOWN_FLAGS = 0x03  # sampled, and random trace-id

# A longer header is not looked at.
MAX_TRACEPARENT_LENGTH = 512

# Clients that split lines with str.splitlines would break an event at these characters.
# Valid JSON has them only in strings, where an escape means the same.
_ESCAPED_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """One entry of a run's log, or a control event, which says what happened to a stream.

    A control event has the category `gateway`, and neither id nor sequence. If it is about a stream
    of several runs, its run id is empty, and null as JSON.

    `data_json` and `source_json` are the stored JSON, on one line. An entry that another program
    wrote may lack fields: they are None, or the JSON `null`. `traceparent` names the trace and the
    span in which the event was appended (W3C Trace Context), if its producer has told it.
    """

    id: str | None
    run_id: str
    sequence: int | None
    timestamp: str | None
    category: str | None
    action: str | None
    data_json: bytes
    source_json: bytes
    traceparent: str | None = None

    @classmethod
    def from_entry(cls, run_id: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> "Event":
        """Read a stream entry. Any program may have written it, so no content raises."""
        sequence = fields.get(b"sequence", b"")
        return cls(
            id=entry_id.decode(),
            run_id=run_id,
            sequence=int(sequence) if _INTEGER.fullmatch(sequence) else None,
            timestamp=text(fields.get(b"timestamp")),
            category=text(fields.get(b"event_category")),
            action=text(fields.get(b"event_action")),
            data_json=stored_json(fields.get(b"data")),
            source_json=stored_json(fields.get(b"source")),
            traceparent=stored_traceparent(fields.get(b"traceparent")),
        )

    @classmethod
    def control(cls, run_id: str, action: str, data: dict[str, Any] | None) -> "Event":
        """Return the control event `gateway.<action>`."""
        return cls(
            id=None,
            run_id=run_id,
            sequence=None,
            timestamp=timestamp_now(),
            category=RESERVED_CATEGORY,
            action=action,
            data_json=orjson.dumps(data),
            source_json=b"null",
        )

    @property
    def event(self) -> dict[str, str | None]:
        """The names of the event, as its JSON has them."""
        return {"category": self.category, "action": self.action}

    @property
    def data(self) -> Any:
        """The decoded data."""
        return orjson.loads(self.data_json)

    @property
    def source(self) -> Any:
        """The decoded source, None if there is none."""
        return orjson.loads(self.source_json)

    @property
    def name(self) -> str | None:
        """`<category>.<action>`, or None if that cannot name an SSE event."""
        category, action = self.category or "", self.action or ""
        if category == RESERVED_CATEGORY or not (NAME.match(category) and NAME.match(action)):
            return None
        return f"{self.category}.{self.action}"

    @property
    def terminal(self) -> bool:
        """Whether a run ends with this event."""
        return is_terminal(self.category, self.action)

    def to_json(self) -> bytes:
        """Return the event as HTTP clients get it: JSON in UTF-8, on one line."""
        document = {
            "id": self.id,
            "run_id": self.run_id or None,
            "sequence": self.sequence,
            "timestamp": self.timestamp,
            "event": {"category": self.category, "action": self.action},
            "data": orjson.Fragment(self.data_json),
            "source": orjson.Fragment(self.source_json),
        }
        if self.traceparent is not None:
            document["traceparent"] = self.traceparent
        return one_line(document)

    def __repr__(self) -> str:
        traced = "" if self.traceparent is None else f", traceparent={self.traceparent!r}"
        return (
            f"Event(id={self.id!r}, run_id={self.run_id!r}, sequence={self.sequence}, "
            f"event={self.event}, data={self.data!r}, source={self.source!r}, "
            f"timestamp={self.timestamp!r}{traced})"
        )


def is_terminal(category: str | None, action: str | None) -> bool:
    """Return whether a run ends with an event of these names."""
    return category == LIFECYCLE and action in TERMINAL_ACTIONS


class OwnLog(str):
    """The name of a log of Tailrace itself, in place of a run id. No run can have it.

    It has a hash tag: `{runs}:changes`.
    """


def check_run_id(run_id: int | str) -> str:
    """Return a run id as text.

    Raises InvalidInput unless it is an integer or a string of the allowed form.
    """
    if isinstance(run_id, OwnLog):
        return run_id
    text = str(run_id) if isinstance(run_id, int) and not isinstance(run_id, bool) else run_id
    if not isinstance(text, str) or not _RUN_ID.fullmatch(text) or text in (".", ".."):
        raise InvalidInput("run_id", "must be 1 to 128 of A-Z a-z 0-9 _ . - and not . or ..")
    return text


def one_line(document: Any) -> bytes:
    """Encode a document as JSON that every client reads as one line."""
    return with_breaks_escaped(orjson.dumps(document))


def with_breaks_escaped(line: bytes) -> bytes:
    """Escape the characters in JSON that some clients take for the end of a line."""
    if not line.isascii():
        for character, escape in _ESCAPED_LINE_BREAKS:
            line = line.replace(character, escape)
    return line


def timestamp_now() -> str:
    """Return the time as events carry it: ISO 8601, UTC, milliseconds."""
    return timestamp_of(time.time_ns() // 1_000_000)


def timestamp_of(ms: int) -> str:
    """Return a Unix time in milliseconds as events carry it."""
    second, ms = divmod(ms, 1000)
    return f"{_date_and_time(second)}.{ms:03d}Z"


@lru_cache(maxsize=1)  # formatting it for each append is measurable
def _date_and_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_traceparent(text: str) -> bytes:
    """Return a traceparent of version 00, or nothing if the text is none.

    Of a later version, the parts are taken that version 00 has (section 4.3). What is not valid
    must be ignored (section 3.2.2), so nothing raises.
    """
    match = _TRACEPARENT.match(text) if len(text) <= MAX_TRACEPARENT_LENGTH else None
    if match is None:
        return b""
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == "ff" or _ZEROS.match(trace_id) or _ZEROS.match(parent_id):
        return b""
    if version == "00":
        return b"" if rest is not None else text.encode()
    return f"00-{trace_id}-{parent_id}-{int(flags, 16) & _KNOWN_FLAGS:02x}".encode()


def stored_traceparent(raw: bytes | None) -> str | None:
    """Return the traceparent of a stored field, which any program may have written."""
    if not raw:
        return None
    return parse_traceparent(raw.decode("latin-1")).decode() or None


def text(raw: bytes | None) -> str | None:
    """Return the text of a stored field; bytes that are not UTF-8 become U+FFFD."""
    return None if raw is None else raw.decode("utf-8", errors="replace")


def stored_json(raw: bytes | None) -> bytes:
    """Return the JSON of a stored field on one line; broken JSON becomes a string."""
    if raw is None:
        return b"null"
    if not is_json(raw):
        return write_json(text(raw))
    # Raw line breaks are only between tokens: JSON forbids them in strings.
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def pairs(reply: Any) -> dict[bytes, Any]:
    """Return the names and values that Redis sent, one after another in RESP2, as a mapping."""
    if isinstance(reply, dict):
        return reply
    parts = iter(reply)
    return dict(zip(parts, parts, strict=True))

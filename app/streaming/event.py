"""The event: one immutable entry of a run's log, what may be in it, and its JSON."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

import orjson

from app.streaming.errors import EventTooLarge, InvalidEvent, InvalidInput

TERMINAL_ACTIONS = ("completed", "failed", "cancelled", "lost")
RESERVED_CATEGORY = "gateway"
MAX_DEPTH = 128
MAX_EVENT_BYTES = 262_144
INTEGER_RANGE = (-(2**63), 2**64 - 1)

_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_INTEGER = re.compile(rb"[0-9]{1,18}")

# Clients that split lines as Python's str.splitlines does would break an event at these.
# Inside valid JSON they stand in strings only, where an escape means the same.
_LINE_BREAKS_OF_SOME = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """One entry of a run's log.

    `data_json` and `source_json` are JSON text on one line, as it is stored. What an entry
    that somebody else wrote lacks is None, or an empty name.
    """

    id: str
    run_id: str
    sequence: int | None
    timestamp: str | None
    category: str
    action: str
    data_json: bytes
    source_json: bytes

    @classmethod
    def from_entry(cls, run_id: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> "Event":
        """Read a stream entry, whoever wrote it; never raises for its content."""
        sequence = fields.get(b"sequence", b"")
        timestamp = fields.get(b"timestamp")
        return cls(
            id=entry_id.decode(),
            run_id=run_id,
            sequence=int(sequence) if _INTEGER.fullmatch(sequence) else None,
            timestamp=None if timestamp is None else _text(timestamp),
            category=_text(fields.get(b"event_category", b"")),
            action=_text(fields.get(b"event_action", b"")),
            data_json=stored_json(fields.get(b"data")),
            source_json=stored_json(fields.get(b"source")),
        )

    @property
    def event(self) -> dict[str, str]:
        return {"category": self.category, "action": self.action}

    @property
    def data(self) -> Any:
        return orjson.loads(self.data_json)

    @property
    def source(self) -> Any:
        return orjson.loads(self.source_json)

    @property
    def name(self) -> str | None:
        """`<category>.<action>`, or None where it cannot name an SSE event."""
        if self.category == RESERVED_CATEGORY or not (
            _NAME.fullmatch(self.category) and _NAME.fullmatch(self.action)
        ):
            return None
        return f"{self.category}.{self.action}"

    @property
    def terminal(self) -> bool:
        """Whether a run whose last entry this is has ended."""
        return is_terminal(self.category, self.action)

    def to_json(self) -> bytes:
        """The event as it appears everywhere over HTTP: JSON in UTF-8, on one line."""
        return one_line(
            {
                "id": self.id,
                "run_id": self.run_id,
                "sequence": self.sequence,
                "timestamp": self.timestamp,
                "event": {"category": self.category, "action": self.action},
                "data": orjson.Fragment(self.data_json),
                "source": orjson.Fragment(self.source_json),
            }
        )

    def __repr__(self) -> str:
        return (
            f"Event(id={self.id!r}, run_id={self.run_id!r}, sequence={self.sequence}, "
            f"event={self.event}, data={self.data!r}, source={self.source!r}, "
            f"timestamp={self.timestamp!r})"
        )


class Draft(NamedTuple):
    """An event before it has an id: names, and JSON as it is stored, empty for no source."""

    category: str
    action: str
    data_json: bytes
    source_json: bytes

    @classmethod
    def of(
        cls,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        max_bytes: int = MAX_EVENT_BYTES,
    ) -> "Draft":
        """Raises InvalidEvent for what no producer may append, and EventTooLarge."""
        check_names(event_category, event_action)
        data_json = encode_json("data", data, max_bytes)
        source_json = b"" if source is None else encode_json("source", source, max_bytes)
        if len(data_json) + len(source_json) > max_bytes:
            larger = "data" if len(data_json) >= len(source_json) else "source"
            raise EventTooLarge(larger, f"an event is at most {max_bytes} bytes")
        return cls(event_category, event_action, data_json, source_json)

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return len(self.data_json) + len(self.source_json)

    @property
    def terminal(self) -> bool:
        """Whether it ends its run."""
        return is_terminal(self.category, self.action)


def is_terminal(category: str, action: str) -> bool:
    """Whether a run has ended whose last event bears these names."""
    return category == "lifecycle" and action in TERMINAL_ACTIONS


def check_run_id(run_id: int | str) -> str:
    """Give a run id as the text it is kept as; raises InvalidInput."""
    text = str(run_id) if isinstance(run_id, int) and not isinstance(run_id, bool) else run_id
    if not isinstance(text, str) or not _RUN_ID.fullmatch(text) or text in (".", ".."):
        raise InvalidInput("run_id", "must be 1 to 128 of A-Z a-z 0-9 _ . - and not . or ..")
    return text


def check_name(field: str, name: str) -> None:
    """Refuse a category or an action outside the pattern, naming `field`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidEvent(field, "must be 1 to 64 of A-Z a-z 0-9 _ -")


def check_names(category: str, action: str) -> None:
    """Refuse names that no producer may append; raises InvalidEvent."""
    check_name("event_category", category)
    check_name("event_action", action)
    if category == RESERVED_CATEGORY:
        raise InvalidEvent("event_category", f"{RESERVED_CATEGORY!r} is reserved")
    if (category, action) == ("lifecycle", "lost"):
        raise InvalidEvent("event_action", "'lifecycle.lost' is reserved")


def encode_json(field: str, value: Any, max_bytes: int = MAX_EVENT_BYTES) -> bytes:
    """Encode event data; raises EventTooLarge, and InvalidEvent for what JSON cannot carry.

    Allowed is any JSON value of depth up to 128 with integers from -2^63 to 2^64-1.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:
        raise InvalidEvent(field, f"cannot be stored as JSON: {error}") from None
    if len(text) > max_bytes:
        raise EventTooLarge(field, f"an event is at most {max_bytes} bytes")
    # Both walks are rare: orjson writes NaN and Infinity as null, and no value is
    # deeper than it has brackets.
    if b"null" in text and _has_non_finite(value):
        raise InvalidEvent(field, "must not hold NaN or Infinity")
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        check_depth(field, orjson.loads(text))
    return text


def check_depth(field: str, value: Any) -> None:
    """Refuse a JSON value nested deeper than MAX_DEPTH; raises InvalidEvent."""
    level, depth = [value], 0
    while level:
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += bool(containers)
        if depth > MAX_DEPTH:
            raise InvalidEvent(field, f"must not be nested deeper than {MAX_DEPTH}")
        level = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]


def one_line(document: Any) -> bytes:
    """Encode a document as JSON on one line, in the eyes of every client."""
    return with_breaks_escaped(orjson.dumps(document))


def with_breaks_escaped(line: bytes) -> bytes:
    """JSON without what some clients take for the end of a line."""
    if not line.isascii():
        for character, escape in _LINE_BREAKS_OF_SOME:
            line = line.replace(character, escape)
    return line


def timestamp_now() -> str:
    """The time as events carry it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def stored_json(raw: bytes | None) -> bytes:
    """The JSON of a stored field on one line: as it is, or as a string where it is broken."""
    if raw is None:
        return b"null"
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return orjson.dumps(_text(raw))
    # Raw line breaks stand only between tokens: inside strings JSON forbids them.
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def pairs(reply: Any) -> dict:
    """Names and values in turn, as Redis gives them in RESP2, as a mapping."""
    if isinstance(reply, dict):
        return reply
    parts = iter(reply)
    return dict(zip(parts, parts, strict=True))


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_has_non_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_non_finite, value))
    return False

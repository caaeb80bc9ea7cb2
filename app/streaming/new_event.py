"""Events on their way into a log: what an append may carry, and where it put them."""

import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import orjson

from .errors import EventTooLarge, InvalidEvent, InvalidInput
from .event import NAME, RESERVED_CATEGORY, Event, is_terminal
from .event_id import EventId

MAX_DEPTH = 128
MAX_EVENT_BYTES = 262_144
INTEGER_RANGE = (-(2**63), 2**64 - 1)

# What one append carries at the most.
MAX_EVENTS = 1000

# The largest time in seconds, or length of a log: a thousand years.
MAX_NUMBER = 31_536_000_000

# What a number of Lua's holds exactly.
MAX_SEQUENCE = 2**53

_EVENT_NAMES = ("event_category", "event_action", "data", "source")
_NAMES = frozenset((*_EVENT_NAMES, "lease_seconds"))
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")


class NewEvent(NamedTuple):
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
    ) -> "NewEvent":
        """Raises InvalidEvent for what no producer may append, and EventTooLarge."""
        check_names(event_category, event_action)
        data_json = encode_json("data", data, max_bytes)
        source_json = b"" if source is None else encode_json("source", source, max_bytes)
        if len(data_json) + len(source_json) > max_bytes:
            larger = "data" if len(data_json) >= len(source_json) else "source"
            raise EventTooLarge(larger, f"an event is at most {max_bytes} bytes")
        return tuple.__new__(cls, (event_category, event_action, data_json, source_json))

    def as_stored(self, run_id: str, appended: "Appended") -> Event:
        """The event that it has become, as the first of what was appended."""
        return Event(
            id=str(appended.first_id),
            run_id=run_id,
            sequence=appended.first_sequence,
            timestamp=appended.timestamp,
            category=self.category,
            action=self.action,
            data_json=self.data_json,
            source_json=self.source_json or b"null",
        )

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return len(self.data_json) + len(self.source_json)

    @property
    def terminal(self) -> bool:
        """Whether it ends its run."""
        return is_terminal(self.category, self.action)


class Append(NamedTuple):
    """What one append is to do: put 1 to MAX_EVENTS new_events in a run's log, all or none.

    For the rest see `EventStore.append`.
    """

    run_id: str
    new_events: list[NewEvent]
    idempotency_key: str | None = None
    expected_sequence: int | None = None
    lease_seconds: int | None = None


class Appended(NamedTuple):
    """Events that follow on each other in the log, and whether an earlier append with the
    same key had put them there. Over HTTP the time of several is not told."""

    first_id: EventId
    first_sequence: int
    count: int
    repeated: bool
    timestamp: str | None = None

    @property
    def last_id(self) -> str:
        return f"{self.first_id.ms}-{self.first_id.n + self.count - 1}"

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + self.count - 1

    def ids(self) -> list[str]:
        ms, first = self.first_id.ms, self.first_id.n
        return [f"{ms}-{n}" for n in range(first, first + self.count)]


def new_event_from(
    index: int, event: Mapping[str, Any], max_bytes: int = MAX_EVENT_BYTES
) -> tuple[NewEvent, int | None]:
    """One of several events, by the names of `EventStore.append`'s arguments, and its lease.

    Raises InvalidInput, InvalidEvent and EventTooLarge, which name a field `<index>.<field>`.
    """
    if type(event) is not dict and not isinstance(event, Mapping):
        raise InvalidEvent(str(index), "must be a mapping")
    try:
        if not event.keys() <= _NAMES:
            [name, *_] = (name for name in event if name not in _NAMES)
            raise InvalidEvent(name, "is no name of an event's")
        if (lease_seconds := event.get("lease_seconds")) is not None:
            check_range("lease_seconds", lease_seconds)
        return NewEvent.of(*map(event.get, _EVENT_NAMES), max_bytes=max_bytes), lease_seconds
    except InvalidInput as error:
        raise error.of_item(index) from None


def new_events_from(
    events: Iterable[Mapping[str, Any]], max_bytes: int = MAX_EVENT_BYTES
) -> tuple[list[NewEvent], int | None]:
    """Events that are appended together, and the last lease that one of them names.

    It reads at most one that is too many, for `check_append` to refuse.
    """
    new_events, lease_seconds = [], None
    for index, event in enumerate(islice(events, MAX_EVENTS + 1)):
        new_event, lease = new_event_from(index, event, max_bytes)
        new_events.append(new_event)
        lease_seconds = lease or lease_seconds
    return new_events, lease_seconds


def check_append(
    events: int,
    idempotency_key: str | None,
    expected_sequence: int | None,
    lease_seconds: int | None,
) -> None:
    """Refuse what no append may carry; raises InvalidEvent and InvalidInput."""
    if not 1 <= events <= MAX_EVENTS:
        raise InvalidEvent("events", f"must be 1 to {MAX_EVENTS}")
    if idempotency_key is not None and not (
        isinstance(idempotency_key, str) and _IDEMPOTENCY_KEY.fullmatch(idempotency_key)
    ):
        raise InvalidInput("idempotency_key", "must be 1 to 128 visible ASCII characters")
    if expected_sequence is not None:
        check_range("expected_sequence", expected_sequence, MAX_SEQUENCE)
    if lease_seconds is not None:
        check_range("lease_seconds", lease_seconds)


def check_range(field: str, value: int, largest: int = MAX_NUMBER) -> None:
    # What is added to a clock of milliseconds must fit it, or Redis refuses halfway.
    if type(value) is not int or not 1 <= value <= largest:
        raise InvalidInput(field, f"must be a whole number from 1 to {largest}")


def check_name(field: str, name: str) -> None:
    """Refuse a category or an action outside the pattern, naming `field`."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidEvent(field, "must be 1 to 64 of A-Z a-z 0-9 _ -")


def check_names(category: str, action: str) -> None:
    """Refuse names that no producer may append; raises InvalidEvent."""
    if isinstance(category, str) and isinstance(action, str):
        _check_names(category, action)
    else:
        check_name("event_category", category)
        check_name("event_action", action)


@lru_cache(maxsize=1000)  # a program appends the same few again and again
def _check_names(category: str, action: str) -> None:
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

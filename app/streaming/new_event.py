"""New events: what an append may carry, and what it returns."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypedDict

from .errors import EventTooLarge, InvalidEvent, InvalidInput
from .event import (
    NAME,
    NAME_RULE,
    RESERVED_CATEGORY,
    Event,
    is_terminal,
    parse_traceparent,
    stored_traceparent,
)
from .event_id import EventId
from .event_json import encode_json

MAX_EVENT_BYTES = 262_144

# Of one append.
MAX_EVENTS = 1000

# Of a time in seconds, and of the length of a log: a thousand years.
MAX_NUMBER = 31_536_000_000

# An append waits for no more replicas.
MAX_ACK_REPLICAS = 100

# The numbers of Lua are exact up to this one.
MAX_SEQUENCE = 2**53

_EVENT_NAMES = ("event_category", "event_action", "data", "source", "traceparent")
_NAMES = frozenset((*_EVENT_NAMES, "lease_seconds"))
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")


class AppendOptions(TypedDict, total=False):
    """The keywords of every append; each may be absent or None.

    idempotency_key: 1 to 128 visible ASCII characters. A repeat with the same key appends
        nothing and returns the first event, while the log retains that event.
    expected_sequence: the sequence that the first event must get. If it would get another one,
        nothing is appended, and UnexpectedSequence is raised.
    lease_seconds: how many seconds the run may be silent before it is lost. Each append renews
        the lease that was set last.
    """

    idempotency_key: str | None
    expected_sequence: int | None
    lease_seconds: int | None


class NewEvent(NamedTuple):
    """An event that has no id yet: its names and its stored JSON, empty for no source.

    `traceparent` is empty for none.
    """

    category: str
    action: str
    data_json: bytes
    source_json: bytes
    traceparent: bytes = b""

    @classmethod
    def of(
        cls,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        traceparent: str | None = None,
        *,
        max_bytes: int = MAX_EVENT_BYTES,
    ) -> "NewEvent":
        """Make a new event of any JSON values.

        A `traceparent` that is not valid (W3C Trace Context) is left out. Raises InvalidEvent if
        a name or a value is not allowed, and EventTooLarge if the JSON of `data` and `source` is
        over `max_bytes`.
        """
        check_names(event_category, event_action)
        data_json = encode_json("data", data, max_bytes)
        source_json = b"" if source is None else encode_json("source", source, max_bytes)
        if len(data_json) + len(source_json) > max_bytes:
            larger = "data" if len(data_json) >= len(source_json) else "source"
            raise EventTooLarge(larger, f"an event is at most {max_bytes} bytes")
        traced = b"" if traceparent is None else _traceparent(traceparent)
        return tuple.__new__(cls, (event_category, event_action, data_json, source_json, traced))

    def as_stored(self, run_id: str, appended: "Appended") -> Event:
        """Return the stored event, if this was the first of what was appended."""
        traceparent = appended.traceparent if appended.repeated else self.traceparent
        return Event(
            id=str(appended.first_id),
            run_id=run_id,
            sequence=appended.first_sequence,
            timestamp=appended.timestamp,
            category=self.category,
            action=self.action,
            data_json=self.data_json,
            source_json=self.source_json or b"null",
            traceparent=stored_traceparent(traceparent) if traceparent else None,
        )

    def within(self, traceparent: bytes) -> "NewEvent":
        """Return the event with a traceparent, unless it has one."""
        return self if self.traceparent else self._replace(traceparent=traceparent)

    @property
    def size(self) -> int:
        """The bytes of its JSON."""
        return len(self.data_json) + len(self.source_json)

    @property
    def terminal(self) -> bool:
        """Whether the run ends with this event."""
        return is_terminal(self.category, self.action)


class Append(NamedTuple):
    """One append to a run's log: 1 to MAX_EVENTS new events, all or none.

    The other fields are those of AppendOptions.
    """

    run_id: str
    new_events: list[NewEvent]
    idempotency_key: str | None = None
    expected_sequence: int | None = None
    lease_seconds: int | None = None


class Appended(NamedTuple):
    """Events that follow one another in the log.

    `repeated` says whether an earlier append with the same key stored them. `timestamp` is
    theirs, and None over HTTP. `traceparent` is that of the first event, if it is repeated.
    """

    first_id: EventId
    first_sequence: int
    length: int
    repeated: bool
    timestamp: str | None = None
    traceparent: bytes = b""

    @property
    def last_id(self) -> str:
        """The id of the last event."""
        return f"{self.first_id.ms}-{self.first_id.n + self.length - 1}"

    @property
    def last_sequence(self) -> int:
        """The sequence of the last event."""
        return self.first_sequence + self.length - 1

    def ids(self) -> list[str]:
        """Return the ids of all events."""
        ms, first = self.first_id.ms, self.first_id.n
        return [f"{ms}-{n}" for n in range(first, first + self.length)]


def new_event_from(
    index: int, event: Mapping[str, Any], max_bytes: int = MAX_EVENT_BYTES
) -> tuple[NewEvent, int | None]:
    """Return the new event and the lease that a mapping describes.

    Its keys are `event_category`, `event_action`, `data`, `source`, `traceparent` and
    `lease_seconds`.
    Raises InvalidInput, InvalidEvent and EventTooLarge, whose field is `<index>.<key>`.
    """
    if type(event) is not dict and not isinstance(event, Mapping):
        raise InvalidEvent(str(index), "must be a mapping")
    try:
        if not event.keys() <= _NAMES:
            [name, *_] = (name for name in event if name not in _NAMES)
            raise InvalidEvent(name, f"is not allowed, only {', '.join(sorted(_NAMES))}")
        if (lease_seconds := event.get("lease_seconds")) is not None:
            check_range("lease_seconds", lease_seconds)
        fields: Iterator[Any] = map(event.get, _EVENT_NAMES)
        return NewEvent.of(*fields, max_bytes=max_bytes), lease_seconds
    except InvalidInput as error:
        raise error.of_item(index) from None


def new_events_from(
    events: Iterable[Mapping[str, Any]], max_bytes: int = MAX_EVENT_BYTES
) -> tuple[list[NewEvent], int | None]:
    """Return the new events that mappings describe, and the last lease among them.

    It reads at most one event too many, which `check_append` refuses.
    """
    new_events, lease_seconds = [], None
    for index, event in enumerate(islice(events, MAX_EVENTS + 1)):
        new_event, lease = new_event_from(index, event, max_bytes)
        new_events.append(new_event)
        lease_seconds = lease or lease_seconds
    return new_events, lease_seconds


def _traceparent(value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidEvent("traceparent", "must be a string")
    return parse_traceparent(value)


def check_append(
    events: int,
    idempotency_key: str | None,
    expected_sequence: int | None,
    lease_seconds: int | None,
) -> None:
    """Raise InvalidEvent unless `events` may be appended at once, InvalidInput for an option."""
    if not 1 <= events <= MAX_EVENTS:
        raise InvalidEvent("events", f"must be 1 to {MAX_EVENTS}")
    if idempotency_key is not None:
        check_idempotency_key("idempotency_key", idempotency_key)
    if expected_sequence is not None:
        check_range("expected_sequence", expected_sequence, MAX_SEQUENCE)
    if lease_seconds is not None:
        check_range("lease_seconds", lease_seconds)


def check_idempotency_key(field: str, key: object) -> None:
    """Raise InvalidInput, naming `field`, unless the key has the allowed form."""
    if not isinstance(key, str) or not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput(field, "must be 1 to 128 visible ASCII characters")


def check_range(field: str, value: int, maximum: int = MAX_NUMBER, minimum: int = 1) -> None:
    """Raise InvalidInput, naming `field`, unless the value is an integer between the two."""
    # Redis adds it to a clock in milliseconds, and would fail halfway through an append.
    if type(value) is not int or not minimum <= value <= maximum:
        raise InvalidInput(field, f"must be a whole number from {minimum} to {maximum}")


def check_name(field: str, name: object) -> None:
    """Raise InvalidEvent, naming `field`, unless the name fits the pattern."""
    if not isinstance(name, str) or not NAME.match(name):
        raise InvalidEvent(field, f"must be {NAME_RULE}")


def check_names(category: object, action: object) -> None:
    """Raise InvalidEvent unless a producer may append events of these names."""
    if isinstance(category, str) and isinstance(action, str):
        _check_names(category, action)
    else:
        check_name("event_category", category)
        check_name("event_action", action)


@lru_cache(maxsize=1000)  # a program uses the same few names again and again
def _check_names(category: str, action: str) -> None:
    check_name("event_category", category)
    check_name("event_action", action)
    if category == RESERVED_CATEGORY:
        raise InvalidEvent("event_category", f"{RESERVED_CATEGORY!r} is reserved")
    if (category, action) == ("lifecycle", "lost"):
        raise InvalidEvent("event_action", "'lifecycle.lost' is reserved")

"""Writing a run's log: what an append may carry, and what the scripts make of it."""

import re
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

from app.streaming.errors import (
    InvalidEvent,
    InvalidInput,
    KeyReused,
    RunEnded,
    ServerTooOld,
    UnexpectedSequence,
)
from app.streaming.event import Draft, timestamp_now
from app.streaming.event_id import EventId
from app.streaming.keys import keys_of
from app.streaming.scripts import Script
from app.streaming.shared_connection import SharedConnection

# The largest time in seconds, or length of a log: a thousand years.
LARGEST = 31_536_000_000

# What one append carries at the most.
MOST_EVENTS = 1000

# What a number of Lua's holds exactly.
LARGEST_SEQUENCE = 2**53

TOO_OLD = "the server is too old: Redis 7.0 or newer, or Valkey, is needed"
_OF_A_DRAFT = ("event_category", "event_action", "data", "source")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")


class Appended(NamedTuple):
    """Events that follow on each other in the log, and whether an earlier append with the
    same key had put them there."""

    first_id: EventId
    first_sequence: int
    count: int
    timestamp: str
    repeated: bool

    @property
    def last_id(self) -> str:
        return f"{self.first_id.ms}-{self.first_id.n + self.count - 1}"

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + self.count - 1

    def ids(self) -> list[str]:
        ms, first = self.first_id.ms, self.first_id.n
        return [f"{ms}-{n}" for n in range(first, first + self.count)]


class LogWriter:
    """Appends to the logs of one server, over one shared connection, within their limits."""

    def __init__(
        self,
        shared: SharedConnection,
        *,
        maxlen: int,
        ended_ttl_seconds: int,
        idle_ttl_seconds: int,
        max_event_bytes: int,
    ):
        for name, value in (
            ("maxlen", maxlen),
            ("ended_ttl_seconds", ended_ttl_seconds),
            ("idle_ttl_seconds", idle_ttl_seconds),
        ):
            check_range(name, value)
        self._append = Script(shared, "append.lua", keys=3)
        self._lose = Script(shared, "lose.lua", keys=3)
        self._maxlen = maxlen
        self._ended_ttl_ms = ended_ttl_seconds * 1000
        self._idle_ttl_ms = idle_ttl_seconds * 1000
        self.max_event_bytes = max_event_bytes

    def draft(
        self, event_category: str, event_action: str, data: Any = None, source: Any = None
    ) -> Draft:
        """An event as it is sent to be appended; raises InvalidEvent and EventTooLarge."""
        return Draft.of(event_category, event_action, data, source, max_bytes=self.max_event_bytes)

    def drafts(self, events: Iterable[Mapping[str, Any]]) -> tuple[list[Draft], int | None]:
        """Events as they are sent together, and the last lease that one of them names.

        It reads at most one that is too many, for `append` to refuse; for the errors see
        `EventStore.append_many`.
        """
        drafts, lease_seconds = [], None
        for index, event in enumerate(islice(events, MOST_EVENTS + 1)):
            if not isinstance(event, Mapping):
                raise InvalidEvent(str(index), "must be a mapping")
            try:
                for name in event:
                    if name not in _OF_A_DRAFT and name != "lease_seconds":
                        raise InvalidEvent(name, "is no name of an event's")
                if (named := event.get("lease_seconds")) is not None:
                    check_range("lease_seconds", named)
                    lease_seconds = named
                drafts.append(self.draft(*map(event.get, _OF_A_DRAFT)))
            except InvalidInput as error:
                raise type(error)(f"{index}.{error.field}", error.message) from None
        return drafts, lease_seconds

    def append(
        self,
        run_id: str,
        drafts: list[Draft],
        idempotency_key: str | None,
        expected_sequence: int | None,
        lease_seconds: int | None,
    ) -> Appended:
        """Append 1 to MOST_EVENTS drafts, all or none; for the errors see `EventStore.append`."""
        if not 1 <= len(drafts) <= MOST_EVENTS:
            raise InvalidEvent("events", f"must be 1 to {MOST_EVENTS}")
        if idempotency_key is not None and not (
            isinstance(idempotency_key, str) and _IDEMPOTENCY_KEY.fullmatch(idempotency_key)
        ):
            raise InvalidInput("idempotency_key", "must be 1 to 128 visible ASCII characters")
        if expected_sequence is not None:
            check_range("expected_sequence", expected_sequence, LARGEST_SEQUENCE)
        if lease_seconds is not None:
            check_range("lease_seconds", lease_seconds)
        status, told, *appended = self._append.run(
            *keys_of(run_id),
            self._maxlen,
            self._ended_ttl_ms,
            self._idle_ttl_ms,
            timestamp_now(),
            idempotency_key or b"",
            expected_sequence or b"",
            lease_seconds or b"",
            *chain.from_iterable(drafts),
        )
        if status == b"key reused":
            raise KeyReused(f"the idempotency key was used for event {told.decode()}")
        if status == b"unexpected":
            raise UnexpectedSequence(told)
        if status == b"ended":
            raise RunEnded(f"run {run_id} ended with event {told.decode()}")
        if status == b"too old":
            raise ServerTooOld(TOO_OLD)
        sequence, timestamp = appended
        return Appended(
            first_id=EventId.from_redis(told),
            first_sequence=sequence,
            count=len(drafts),
            timestamp=timestamp.decode(),
            repeated=status == b"repeated",
        )

    def lose(self, run_id: str, last_id: EventId, watched: bool) -> bool:
        """End a run whose lease has run out; see `EventStore.lose`."""
        lost = self._lose.run(
            *keys_of(run_id),
            str(last_id),
            timestamp_now(),
            self._ended_ttl_ms,
            int(watched),
        )
        return bool(lost)


def check_range(field: str, value: int, largest: int = LARGEST) -> None:
    # What is added to a clock of milliseconds must fit it, or Redis refuses halfway.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise InvalidInput(field, f"must be a whole number from 1 to {largest}")

"""What Redis answers about a log, in either protocol, as the shapes that the store works with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from redis.exceptions import ResponseError

from app.streaming.connection import checked
from app.streaming.event import Event, pairs
from app.streaming.event_id import ZERO, EventId
from app.streaming.frame import Frame


@dataclass(frozen=True, slots=True)
class LogInfo:
    """A run's log at one moment.

    `first_id` and `end_id` are the first and last retained entry (None: none is retained),
    `last_id` is the last id ever given, retained or not; `last_sequence` counts the entries
    ever added; `deleted` is the greatest id that was deleted (not trimmed); `lease_seconds`
    is how long the run may be silent; `ttl` is in seconds, None without one.
    """

    length: int
    first_id: EventId | None
    first_sequence: int
    last_id: EventId
    last_sequence: int
    ended: bool
    end_id: EventId | None = None
    deleted: EventId = ZERO
    lease_seconds: int | None = None
    ttl: int | None = None

    @property
    def exists(self) -> bool:
        return self.last_id > ZERO

    def verdict(self, cursor: EventId, added: int = 0) -> Literal["gap", "reset"] | None:
        """What a follower who has got everything up to `cursor` must be told.

        A gap: entries after the cursor were trimmed, or deleted one by one. A reset: the
        cursor is none of this log's, which was deleted or begun anew. `added` is how many
        entries the follower knows to have been added: in one log that number never falls.
        """
        if cursor > self.last_id or added > self.last_sequence:
            return "reset"
        if self.first_id is None:
            return "gap" if cursor < self.last_id else None
        if cursor < self.first_id.before():
            if self.first_sequence > 1:
                return "gap"
            if cursor > ZERO:
                return "reset"
        return "gap" if cursor < self.deleted else None

    def told(self, requested: str) -> dict[str, str | None]:
        """The data of a control event: what was asked for, and what there is now."""
        return {
            "requested": requested,
            "earliest": str(self.first_id) if self.first_id else None,
            "latest": str(self.last_id) if self.exists else None,
        }


NO_LOG = LogInfo(0, None, 1, ZERO, 0, ended=False)


def events(run_id: str, entries: list) -> list[Event]:
    """The events of an XRANGE reply."""
    return [Event.from_entry(run_id, entry_id, pairs(fields)) for entry_id, fields in entries]


def frames(run_id: str, entries: list) -> list[Frame]:
    """The frames of the events of an XRANGE reply."""
    return [Frame.of_entry(run_id, entry_id, fields) for entry_id, fields in entries]


def streams(reply: Any) -> Iterable[tuple[bytes, list]]:
    """The keys and entries of an XREAD reply: a list in RESP2, a map in RESP3."""
    return reply.items() if isinstance(reply, dict) else reply or ()


def log_info(stream: Any, ttl: int = -1) -> LogInfo:
    """The replies to XINFO STREAM and TTL as one LogInfo; raises as `checked` does."""
    if isinstance(stream, ResponseError) and "no such key" in str(stream):
        return NO_LOG
    info = pairs(checked(stream))
    first, last = info[b"first-entry"], info[b"last-entry"]
    length, added = info[b"length"], info.get(b"entries-added", 0)
    deleted = EventId.from_redis(info.get(b"max-deleted-entry-id", b"0-0"))
    # Unless entries were deleted out of the middle, what was added and is not there any more
    # was trimmed, whatever numbers others may have written.
    first_sequence = added - length + 1
    if deleted > ZERO and first:
        first_sequence = events("", [first])[0].sequence or first_sequence
    return LogInfo(
        length=length,
        first_id=EventId.from_redis(first[0]) if first else None,
        first_sequence=first_sequence,
        last_id=EventId.from_redis(info[b"last-generated-id"]),
        end_id=EventId.from_redis(last[0]) if last else None,
        last_sequence=added,
        # Of a thousand runs that are looked at, few last entries need a closer look.
        ended=bool(last) and b"lifecycle" in last[1] and events("", [last])[0].terminal,
        deleted=deleted,
        lease_seconds=_lease(last[1]) if last else None,
        ttl=ttl if ttl >= 0 else None,
    )


def _lease(fields: list[bytes]) -> int | None:
    """The lease that an entry carries, from 1 second; others may write what they like."""
    if b"lease_seconds" not in fields:
        return None
    text = pairs(fields).get(b"lease_seconds", b"")
    return int(text) or None if text.isdigit() and len(text) < 12 else None

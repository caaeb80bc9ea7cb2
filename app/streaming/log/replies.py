"""What Redis answers about a log, in either protocol, as the shapes that the store works with."""

from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from ..event import Event, pairs
from ..event_id import ZERO, EventId
from .connection import checked
from .log_state import NO_LOG, LogState


def events(run_id: str, entries: list) -> list[Event]:
    """The events of an XRANGE reply."""
    return [Event.from_entry(run_id, entry_id, pairs(fields)) for entry_id, fields in entries]


def streams(reply: Any) -> Iterable[tuple[bytes, list]]:
    """The keys and entries of an XREAD reply: a list in RESP2, a map in RESP3."""
    return reply.items() if isinstance(reply, dict) else reply or ()


def log_state(stream: Any, ttl: int = -1) -> LogState:
    """The replies to XINFO STREAM and TTL as one LogState; raises as `checked` does."""
    if isinstance(stream, ResponseError) and "no such key" in str(stream):
        return NO_LOG
    state = pairs(checked(stream))
    first, last = state[b"first-entry"], state[b"last-entry"]
    length, added = state[b"length"], state.get(b"entries-added", 0)
    deleted = EventId.from_redis(state.get(b"max-deleted-entry-id", b"0-0"))
    # Unless entries were deleted out of the middle, what was added and is not there any more
    # was trimmed, whatever numbers others may have written.
    first_sequence = added - length + 1
    if deleted > ZERO and first:
        first_sequence = events("", [first])[0].sequence or first_sequence
    return LogState(
        length=length,
        first_id=EventId.from_redis(first[0]) if first else None,
        first_sequence=first_sequence,
        last_id=EventId.from_redis(state[b"last-generated-id"]),
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

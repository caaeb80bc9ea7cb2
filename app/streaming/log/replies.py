"""Parsing of what Redis replies about a log, in RESP2 and in RESP3."""

from collections.abc import Iterable, Sequence

from redis.exceptions import ResponseError

from ..event import Event, pairs
from ..event_id import ZERO, EventId
from .connection import Reply, checked
from .log_state import NO_LOG, LogState


def parse_events(run_id: str, entries: Iterable[Reply]) -> list[Event]:
    """Return the events of an XRANGE reply."""
    return [Event.from_entry(run_id, entry_id, pairs(fields)) for entry_id, fields in entries]


def parse_streams(reply: Reply) -> Iterable[tuple[bytes, list[Reply]]]:
    """Return the keys and entries of an XREAD reply: a list in RESP2, a map in RESP3."""
    return reply.items() if isinstance(reply, dict) else reply or ()


def parse_log_state(stream: Reply, ttl: int = -1) -> LogState:
    """Return one LogState from the replies to XINFO STREAM and TTL.

    Without a log it is NO_LOG. Raises what `checked` raises.
    """
    if isinstance(stream, ResponseError) and "no such key" in str(stream):
        return NO_LOG
    state = pairs(checked(stream))
    first, last = state[b"first-entry"], state[b"last-entry"]
    length, added = state[b"length"], state.get(b"entries-added", 0)
    deleted = EventId.from_redis(state.get(b"max-deleted-entry-id", b"0-0"))
    # While no entry was deleted from between others, the missing entries were trimmed. Then
    # counting is right, even if others wrote wrong sequences.
    first_sequence = added - length + 1
    if deleted > ZERO and first:
        first_sequence = parse_events("", [first])[0].sequence or first_sequence
    return LogState(
        length=length,
        first_id=EventId.from_redis(first[0]) if first else None,
        first_sequence=first_sequence,
        last_id=EventId.from_redis(state[b"last-generated-id"]),
        end_id=EventId.from_redis(last[0]) if last else None,
        last_sequence=added,
        # A check of a thousand runs parses only the few last entries that can be terminal.
        ended=bool(last) and b"lifecycle" in last[1] and parse_events("", [last])[0].terminal,
        deleted=deleted,
        lease_seconds=_parse_lease(last[1]) if last else None,
        ttl=ttl if ttl >= 0 else None,
    )


def _parse_lease(fields: Sequence[bytes]) -> int | None:
    """Return the lease of an entry in seconds, or None. Others may have written anything."""
    if b"lease_seconds" not in fields:
        return None
    text = pairs(fields).get(b"lease_seconds", b"")
    return int(text) or None if text.isdigit() and len(text) < 12 else None

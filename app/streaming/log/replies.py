"""Parsing of what Redis replies about a log, in RESP2 and in RESP3."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

from redis.exceptions import ResponseError

from ..event import Event, is_terminal, pairs, text
from ..event_id import EventId
from ..redis.connection import Reply, checked
from .continuity import Mark
from .log_state import NO_LOG, LogState
from .run import MAX_META_BYTES, Run

_MARK_NAMES = [b"sequence", b"epoch"]


def parse_event(run_id: str, entry: Reply) -> Event:
    """Return the event of an entry."""
    entry_id, fields = entry
    return Event.from_entry(run_id, entry_id, pairs(fields))


def has_names(entry: Reply, categories: Set[str], actions: Set[str]) -> bool:
    """Return whether an entry has one of the categories and actions; an empty set allows all."""
    if not categories and not actions:
        return True
    category, action = _names(entry[1])
    return (not categories or category in categories) and (not actions or action in actions)


def parse_events(run_id: str, entries: Iterable[Reply]) -> list[Event]:
    """Return the events of an XRANGE reply."""
    return [parse_event(run_id, entry) for entry in entries]


def parse_streams(reply: Reply) -> Iterable[tuple[bytes, list[Reply]]]:
    """Return the keys and entries of an XREAD reply: a list in RESP2, a map in RESP3."""
    return reply.items() if isinstance(reply, dict) else reply or ()


def parse_log_state(stream: Reply, ttl: int = -1) -> LogState:
    """Return one LogState from the replies to XINFO STREAM and TTL.

    Its epoch is empty if the last entry has none. Without a log it is NO_LOG. Raises what
    `checked` raises.
    """
    if isinstance(stream, ResponseError) and "no such key" in str(stream):
        return NO_LOG
    state = pairs(checked(stream))
    first, last = state[b"first-entry"], state[b"last-entry"]
    length, added = state[b"length"], state.get(b"entries-added", 0)
    first_id = EventId.from_redis(first[0]) if first else None
    deleted = EventId.from_redis(state.get(b"max-deleted-entry-id", b"0-0"))
    first_sequence = parse_mark(first).sequence if first else None
    if first_sequence is None and (first_id is None or deleted <= first_id):
        first_sequence = added - length + 1  # all that is missing stood before it
    end = parse_mark(last) if last else None
    return LogState(
        length=length,
        first_id=first_id,
        first_sequence=first_sequence,
        last_id=EventId.from_redis(state[b"last-generated-id"]),
        end_id=EventId.from_redis(last[0]) if last else None,
        last_sequence=added,
        ended=bool(last) and b"lifecycle" in last[1] and is_terminal(*_names(last[1])),
        deleted=deleted,
        lease_seconds=_parse_lease(last[1]) if last else None,
        ttl=ttl if ttl >= 0 else None,
        epoch=end.epoch if end else b"",
        end_sequence=end.sequence if end else None,
    )


def parse_run(run_id: str, stream: Reply, log: LogState) -> Run:
    """Return what the reply to XINFO STREAM tells of a run, whose log is in that state."""
    state = pairs(checked(stream))
    first, last = state[b"first-entry"], state[b"last-entry"]
    return Run(
        run_id,
        log,
        epoch=parse_mark(last).epoch if last else b"",
        first_event=without_large_data(parse_event(run_id, first)) if first else None,
        last_event=without_large_data(parse_event(run_id, last)) if last else None,
    )


def without_large_data(event: Event) -> Event:
    """Return an event; if its data are too large to be kept with its run, without them."""
    if len(event.data_json) + len(event.source_json) <= MAX_META_BYTES + len(b"null"):
        return event
    return replace(event, data_json=b"null", source_json=b"null")


def parse_mark(entry: Reply) -> Mark:
    """Return the mark of an entry."""
    entry_id, fields = entry
    cursor = EventId.from_redis(entry_id)
    if fields[2:5:2] != _MARK_NAMES:  # where append.lua writes them
        return Mark(cursor, b"", None)
    sequence, epoch = fields[3:6:2]
    if not (epoch.isdigit() and sequence.isdigit() and len(sequence) < 19):
        return Mark(cursor, b"", None)
    return Mark(cursor, epoch, int(sequence))


def _names(fields: Sequence[bytes]) -> tuple[str | None, str | None]:
    """Return the category and the action of an entry, as `Event.from_entry` does."""
    values = pairs(fields)
    category, action = values.get(b"event_category"), values.get(b"event_action")
    return text(category), text(action)


def _parse_lease(fields: Sequence[bytes]) -> int | None:
    """Return the lease of an entry in seconds, or None. Others may have written anything."""
    if b"lease_seconds" not in fields:
        return None
    lease = pairs(fields).get(b"lease_seconds", b"")
    return int(lease) or None if lease.isdigit() and len(lease) < 12 else None

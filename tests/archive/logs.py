"""Logs for the tests of the archive, and entries that other programs may have written."""

from collections.abc import Sequence

import redis

from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import EventStore

# What other programs write, or could.
ODD_FIELDS: Sequence[list[bytes]] = [
    [b"a", b"1"],
    [b"\xff\xfe", b"\x00\x80"],
    [b"data", b"{broken"],
    [b"data", b'{"a": 1}', b"sequence", b"3", b"data", b"twice"],
    [b"sequence", b"007", b"epoch", b"12"],
    [b"event_category", b"lifecycle", b"event_action", b"\xe2\x80\xa8"],
    [b"timestamp", b"now", b"sequence", b"1", b"epoch", b"1", b"event_category", b"a",
     b"event_action", b"b", b"data", b"1", b"lease_seconds", b"007"],
    [b"timestamp", b"now", b"sequence", b"1", b"epoch", b"1", b"event_category", b"a",
     b"event_action", b"b", b"data", b"[" * 129 + b"]" * 129],
    [b"timestamp", b"now", b"sequence", b"1", b"epoch", b"1", b"event_category", b"a",
     b"event_action", b"b", b"data", b"[" * 5000 + b"]" * 5000, b"source", b"null"],
    [b"timestamp", b"now", b"sequence", b"1", b"epoch", b"1", b"event_category", b"a",
     b"event_action", b"b", b"data", b'"\xe2\x80\xa8"', b"source", b"[1,\n2]"],
    [b"", b""],
]  # fmt: skip


def append(store: EventStore, run_id: str, count: int = 5, *, ended: bool = True) -> list[str]:
    """Append events to a run, the last of which ends it."""
    events = [
        {"event_category": "step", "event_action": "done", "data": {"n": n}} for n in range(count)
    ]
    if ended:
        events.append({"event_category": "lifecycle", "event_action": "completed"})
    return store.add_many(run_id, events)


def write(client: redis.Redis, run_id: str, fields: Sequence[bytes], entry_id: str = "*") -> None:
    """Write an entry as another program would."""
    client.execute_command("XADD", f"run:{run_id}:events", entry_id, *fields)


def entries_of(store: EventStore, run_id: str, after: EventId = ZERO) -> list[object]:
    """Return all raw entries of a log after an id."""
    return [entry for page in store.scan_pages(run_id, after=after) for entry in page]

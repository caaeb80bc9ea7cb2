"""A model of one run, written from the documents: what Redis holds, and what readers are due."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TERMINAL_ACTIONS = {"completed", "failed", "cancelled", "lost"}
ENDED_TTL, IDLE_TTL, TTL_USED = 86_400, 604_800, 3_600
MAX_COUNTER = 2**64 - 1


class Id(NamedTuple):
    """An event id: two numbers."""

    ms: int
    n: int

    @classmethod
    def of(cls, text: str | bytes) -> "Id":
        ms, _, n = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(ms), int(n))

    @property
    def previous(self) -> "Id":
        if self.n:
            return Id(self.ms, self.n - 1)
        return Id(self.ms - 1, MAX_COUNTER) if self.ms else self

    @property
    def following(self) -> "Id":
        return Id(self.ms, self.n + 1) if self.n < MAX_COUNTER else Id(self.ms + 1, 0)

    def __str__(self) -> str:
        return f"{self.ms}-{self.n}"


ZERO = Id(0, 0)
LAST = Id(MAX_COUNTER, MAX_COUNTER)


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same, with the order of members and 1 beside 1.0."""
    return json.dumps(one) == json.dumps(other)


class Content(NamedTuple):
    """What a producer says of an event."""

    category: str
    action: str
    data: Any = None
    source: Any = None
    traceparent: str | None = None

    def is_same(self, other: "Content") -> bool:
        """Return whether a repeat may bring the other one. Its trace does not count."""
        return same(self[:4], other[:4])

    @property
    def terminal(self) -> bool:
        return self.category == "lifecycle" and self.action in TERMINAL_ACTIONS

    @property
    def reopens(self) -> bool:
        return (self.category, self.action) == ("lifecycle", "started")


class Entry(NamedTuple):
    """An entry of the log, as readers get it. What it lacks is None.

    `foreign` says that another program wrote it, so that its place in the log is only counted.
    """

    id: Id
    names: tuple[str | None, str | None]
    data: Any
    source: Any
    sequence: int | None
    timestamp: str | None
    lease: int | None = None
    foreign: bool = False
    traceparent: str | None = None

    @property
    def terminal(self) -> bool:
        return self.names[0] == "lifecycle" and self.names[1] in TERMINAL_ACTIONS

    @property
    def content(self) -> Content:
        names = self.names[0] or "", self.names[1] or ""
        return Content(*names, self.data, self.source, self.traceparent)

    def json(self, run_id: str) -> dict[str, Any]:
        """Return the event in the shape that it has everywhere."""
        traced = {} if self.traceparent is None else {"traceparent": self.traceparent}
        return {
            "id": str(self.id),
            "run_id": run_id,
            "sequence": self.sequence,
            "timestamp": self.timestamp,
            "event": {"category": self.names[0], "action": self.names[1]},
            "data": self.data,
            "source": self.source,
            **traced,
        }


@dataclass
class Log:
    """A Redis stream from its first entry until it is deleted.

    Attributes:
        entries: those that it retains.
        last_id, added: what Redis counts on with.
        deleted: the greatest id that was deleted, not trimmed.
        gone: the ids of all entries that were deleted or trimmed.
        given: all ids that are cursors of this log: of entries, and of gateway.caught_up.
        expires_at: when Redis deletes it, in seconds of the caller's clock, or None.
        odd: whether others have moved its last id.
    """

    entries: list[Entry] = field(default_factory=list)
    last_id: Id = ZERO
    added: int = 0
    deleted: Id = ZERO
    gone: set[Id] = field(default_factory=set)
    given: set[Id] = field(default_factory=lambda: {ZERO})
    expires_at: float | None = None
    odd: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.entries) and self.entries[-1].terminal

    @property
    def lease(self) -> int | None:
        """How many seconds the run may be silent."""
        return self.entries[-1].lease if self.entries and not self.ended else None

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.last_id = entry.id
        self.added += 1
        self.given.add(entry.id)

    def delete(self, event_id: Id) -> None:
        if any(entry.id == event_id for entry in self.entries):
            self.entries = [entry for entry in self.entries if entry.id != event_id]
            self.gone.add(event_id)
            self.deleted = max(self.deleted, event_id)

    def trim(self, length: int) -> None:
        cut = max(0, len(self.entries) - length)
        self.gone |= {entry.id for entry in self.entries[:cut]}
        self.entries = self.entries[cut:]

    def after(self, cursor: Id) -> list[Entry]:
        return [entry for entry in self.entries if entry.id > cursor]

    def appended(self, now: float) -> None:
        """Renew the TTL after an append through Tailrace."""
        ttl = None if self.expires_at is None else self.expires_at - now
        if self.ended:
            self.expires_at = now + ENDED_TTL
        elif ttl is None or ttl < IDLE_TTL - TTL_USED:
            self.expires_at = now + IDLE_TTL

    def notices(self, cursor: Id) -> set[str | None]:
        """Return what a client is told that reconnects with an id; None is no notice.

        There are several where an id cannot tell what happened: its own event is gone, or it is
        of another log. A gap comes before the first event that may be missing.
        """
        if cursor > self.last_id:
            return {"reset"}
        own, retained = cursor in self.given, any(entry.id == cursor for entry in self.entries)
        first = self.entries[0].id if self.entries else None
        if own and any(event_id > cursor for event_id in self.gone):
            found: set[str | None] = {"gap"}
        elif own:
            found = {None}
            if cursor > ZERO and not retained and (first is None or cursor < first):
                found |= {"gap"}
        elif first is None or cursor < first:
            found = {"gap", "reset"} if self.gone else {"reset"}
            found |= {None} if first is not None and cursor == first.previous else set()
        else:
            found = {"reset"} if cursor > self.deleted else {"gap", "reset"}
        if self.odd and not retained:
            found |= {"gap", "reset"} | ({None} if not own else set())
        return found


@dataclass
class KeyRecord:
    """What an idempotency key has appended."""

    log: Log
    first: Entry
    ids: list[Id]
    contents: list[Content]

    @property
    def is_known(self) -> bool:
        """Whether the log retains one of its events."""
        return any(entry.id in self.ids for entry in self.log.entries)

    def is_same(self, contents: list[Content]) -> bool:
        retained = {entry.id for entry in self.log.entries}
        return len(contents) == len(self.contents) and all(
            mine.is_same(theirs)
            for event_id, mine, theirs in zip(self.ids, self.contents, contents, strict=True)
            if event_id in retained
        )


@dataclass
class Run:
    """A run: its log, its idempotency keys, and what others have put in the place of either.

    `foreign` names the keys in Redis that hold something else: 0 for the log, 1 and 2 for the
    two keys beside it. `seen` is every id that anybody was ever given. `followed` says whether
    there was a stream.
    """

    id: str
    log: Log | None = None
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    foreign: set[int] = field(default_factory=set)
    seen: list[Id] = field(default_factory=list)
    followed: bool = False

    @property
    def entries(self) -> list[Entry]:
        return self.log.entries if self.log else []

    @property
    def is_full(self) -> bool:
        """Whether the log takes no more entries, since no id is left."""
        return self.last_id == LAST

    @property
    def last_sequence(self) -> int:
        return self.log.added if self.log else 0

    @property
    def last_id(self) -> Id:
        return self.log.last_id if self.log else ZERO

    def known_key(self, key: str | None) -> KeyRecord | None:
        record = self.keys.get(key) if key is not None else None
        return record if record and record.log is self.log and record.is_known else None

    def notices(self, cursor: Id) -> set[str | None]:
        if self.log is None:
            return {None} if cursor == ZERO else {"reset"}
        return self.log.notices(cursor)

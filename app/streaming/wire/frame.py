"""The frame: an event as SSE bytes, encoded once and shared by every client that gets it."""

import re
from functools import lru_cache
from typing import Any, NamedTuple

from ..backoff import Turns
from ..event import (
    RESERVED_CATEGORY,
    Event,
    pairs,
    stored_json,
    stored_traceparent,
    with_breaks_escaped,
)
from ..event_id import Cursor, EventId
from ..event_json import write_json

# The field names of an entry, in the order in which the append script writes them.
_ALWAYS = [b"timestamp", b"sequence", b"epoch", b"event_category", b"event_action", b"data"]
_APPENDED = tuple(
    [*_ALWAYS, *source, *lease, *traced]
    for traced in ([], [b"traceparent"])
    for lease in ([], [b"lease_seconds"])
    for source in ([], [b"source"])
)
_JSON = b'{"id":"%b","run_id":"%b","sequence":%b,"timestamp":"%b","event":%b,"data":%b,"source":%b}'
_TIMESTAMP = re.compile(rb"[0-9:.TZ+-]{1,40}")
_SEQUENCE = re.compile(rb"[1-9][0-9]{0,17}")


class Frame(NamedTuple):
    """An event as SSE bytes, or a control event that the gateway itself sends.

    Attributes:
        cursor: the cursor of a client that has received the frame.
        epoch: that of the log, as the event has it; empty if another program wrote it.
        sequence: the event's sequence, None for an event without one.
        unfiltered: whether the frame passes every filter; terminal and control events do.
        typed: the frame with its `event:` line.
        name_at: where in `typed` the `event:` line begins.
        data_at: where in `typed` the `data:` line begins.
    """

    cursor: EventId
    epoch: bytes
    sequence: int | None
    category: str | None
    action: str | None
    unfiltered: bool
    typed: bytes
    name_at: int
    data_at: int

    @classmethod
    def of_entry(cls, run_id: str, entry_id: bytes, fields: list[bytes]) -> "Frame":
        """Encode a stream entry; `fields` holds its names and values in turn.

        An entry that Tailrace appended is encoded without an Event in between, which is three
        times as fast.
        """
        if fields[::2] not in _APPENDED:
            return cls.of(Event.from_entry(run_id, entry_id, pairs(fields)))
        timestamp, sequence, epoch, category, action, data = fields[1:12:2]
        source = fields[13] if fields[12:13] == [b"source"] else None
        # Longer names are others', and would be remembered.
        names = _names(category, action) if len(category) + len(action) <= 128 else None
        if (
            names is None
            or not _TIMESTAMP.fullmatch(timestamp)
            or not _SEQUENCE.fullmatch(sequence)
            or not epoch.isdigit()
        ):
            return cls.of(Event.from_entry(run_id, entry_id, pairs(fields)))
        json = _JSON % (
            *(entry_id, run_id.encode(), sequence, timestamp, names.json),
            *(stored_json(data), stored_json(source)),
        )
        if fields[-2] == b"traceparent" and (traced := stored_traceparent(fields[-1])):
            json = b'%b,"traceparent":"%b"}' % (json[:-1], traced.encode())
        head = b"id: %b\n" % entry_id
        named = head + names.line
        parts = (
            EventId.from_redis(entry_id),
            epoch,
            int(sequence),
            names.category,
            names.action,
            names.terminal,
            b"%bdata: %b\n\n" % (named, with_breaks_escaped(json)),
            len(head),
            len(named),
        )
        return tuple.__new__(cls, parts)  # three times as fast as calling the class

    @classmethod
    def of(cls, event: Event) -> "Frame":
        """Encode an event."""
        name, json = event.name, event.to_json()
        cursor = EventId.parse(event.id or "")
        head = b"id: %b\n" % str(cursor).encode()
        named = b"%bevent: %b\n" % (head, name.encode()) if name else head
        return cls(
            cursor=cursor,
            epoch=b"",
            sequence=event.sequence,
            category=event.category,
            action=event.action,
            unfiltered=event.terminal,
            typed=b"%bdata: %b\n\n" % (named, json),
            name_at=len(head),
            data_at=len(named),
        )

    @classmethod
    def control(
        cls,
        run_id: str,
        action: str,
        data: dict[str, Any] | None,
        *,
        cursor: EventId,
        id_line: Cursor | None = None,
    ) -> "Frame":
        """Encode the control event `gateway.<action>`.

        It has the shape of an event whose id and sequence are null. `id_line` is from where the
        client resumes, if the frame says it.
        """
        json = Event.control(run_id, action, data).to_json()
        head = b"" if id_line is None else b"id: %b\n" % str(id_line).encode()
        named = b"%bevent: gateway.%b\n" % (head, action.encode())
        return cls(
            cursor=cursor,
            epoch=b"",
            sequence=None,
            category=RESERVED_CATEGORY,
            action=action,
            unfiltered=True,
            typed=b"%bdata: %b\n\n" % (named, json),
            name_at=len(head),
            data_at=len(named),
        )

    @property
    def terminal(self) -> bool:
        """Whether a run has ended if this is its last event."""
        return self.unfiltered and self.category != RESERVED_CATEGORY

    @property
    def is_control(self) -> bool:
        """Whether the gateway itself sends it; another program's event may have the same name."""
        return self.unfiltered and self.category == RESERVED_CATEGORY

    @property
    def untyped(self) -> bytes:
        """The frame without its `event:` line."""
        return self.typed[: self.name_at] + self.typed[self.data_at :]

    @property
    def json(self) -> bytes:
        """The event's JSON alone, on one line."""
        return self.typed[self.data_at + len(b"data: ") : -len(b"\n\n")]


def frames_from(run_id: str, entries: list[Any]) -> list[Frame]:
    """Return the frames of the entries of an XRANGE or XREAD reply."""
    if len(entries) == 1:  # as most replies are, where many runs have few followers
        return [Frame.of_entry(run_id, *entries[0])]
    frames, turns = [], Turns()
    for entry_id, fields in entries:
        frame = Frame.of_entry(run_id, entry_id, fields)
        frames.append(frame)
        turns.spend(len(frame.typed))
    return frames


class _Names(NamedTuple):
    """The category and action of an event, in every form that its frame needs."""

    category: str | None
    action: str | None
    terminal: bool
    json: bytes
    line: bytes


@lru_cache(maxsize=1000)
def _names(category: bytes, action: bytes) -> _Names | None:
    """Return the two names in every form, or None if they cannot name an SSE event."""
    event = Event.from_entry("", b"", {b"event_category": category, b"event_action": action})
    if event.name is None:
        return None
    return _Names(
        category=event.category,
        action=event.action,
        terminal=event.terminal,
        json=write_json(event.event),
        line=b"event: %b\n" % event.name.encode(),
    )

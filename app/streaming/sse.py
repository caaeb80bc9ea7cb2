"""The wire formats of a stream: Server-Sent Events, and the same as one JSON object a line.

SSE is section 9.2 of the HTML Living Standard.
"""

import random
from dataclasses import dataclass
from typing import Any

from app.streaming.event import RESERVED_CATEGORY, Event, one_line, timestamp_now
from app.streaming.event_id import EventId


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as bytes for the wire, encoded once and shared by all who get it.

    `position` is the cursor of whoever has got it. A frame that is `unfiltered` (a control
    event, a terminal event) passes every filter.
    """

    position: EventId
    category: str
    action: str
    terminal: bool
    unfiltered: bool
    json: bytes
    typed: bytes
    untyped: bytes

    @property
    def control_event(self) -> bool:
        return self.category == RESERVED_CATEGORY

    @classmethod
    def of(cls, event: Event) -> "Frame":
        json, name = event.to_json(), event.name
        identity, data = b"id: %b\n" % event.id.encode(), b"data: %b\n\n" % json
        untyped = identity + data
        return cls(
            position=EventId.parse(event.id),
            category=event.category,
            action=event.action,
            terminal=event.terminal,
            unfiltered=event.terminal,
            json=json,
            typed=identity + b"event: %b\n" % name.encode() + data if name else untyped,
            untyped=untyped,
        )

    @classmethod
    def control(
        cls,
        run_id: str,
        action: str,
        data: dict[str, Any] | None,
        *,
        position: EventId,
        carries_id: bool = False,
    ) -> "Frame":
        """A control event: `gateway.<action>`, in the shape of an event without id or sequence."""
        json = one_line(
            {
                "id": None,
                "run_id": run_id,
                "sequence": None,
                "timestamp": timestamp_now(),
                "event": {"category": RESERVED_CATEGORY, "action": action},
                "data": data,
                "source": None,
            }
        )
        identity = b"id: %b\n" % str(position).encode() if carries_id else b""
        wire = b"%bevent: gateway.%b\ndata: %b\n\n" % (identity, action.encode(), json)
        return cls(position, RESERVED_CATEGORY, action, False, True, json, wire, wire)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a subscriber wants of a run; empty sets want everything."""

    categories: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()

    def passes(self, frame: Frame) -> bool:
        return frame.unfiltered or (
            (not self.categories or frame.category in self.categories)
            and (not self.actions or frame.action in self.actions)
        )


class EventStream:
    """Server-Sent Events; without `typed`, events go without their `event:` line."""

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, typed: bool = True):
        self._typed = typed

    def opening(self, run_id: str, retry_ms: int) -> bytes:
        return b"%b: open\n\n" % self.retry(retry_ms)

    def retry(self, retry_ms: int) -> bytes:
        """How long a client waits before it reconnects, spread so that no herd comes back."""
        return b"retry: %d\n\n" % (retry_ms * random.uniform(2 / 3, 4 / 3))

    def heartbeat(self, run_id: str) -> bytes:
        return b": heartbeat\n\n"

    def frame(self, frame: Frame) -> bytes:
        return frame.typed if self._typed else frame.untyped


class JsonLines:
    """One JSON object a line: what has no event in SSE is a control event here."""

    content_type = "application/x-ndjson; charset=utf-8"

    def opening(self, run_id: str, retry_ms: int) -> bytes:
        return self.heartbeat(run_id)

    def retry(self, retry_ms: int) -> bytes:
        return b""

    def heartbeat(self, run_id: str) -> bytes:
        return self.frame(Frame.control(run_id, "heartbeat", None, position=EventId(0, 0)))

    def frame(self, frame: Frame) -> bytes:
        return frame.json + b"\n"


WireFormat = EventStream | JsonLines

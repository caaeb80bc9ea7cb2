"""The wire formats of a stream: Server-Sent Events, and the same as one JSON object a line.

SSE is section 9.2 of the HTML Living Standard.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from ..event import RESERVED_CATEGORY
from ..event_id import ZERO, EventId
from .frame import Frame

# What a frame takes beside its bytes, and how many views a batch keeps its bytes for.
BYTES_PER_FRAME = 400
MAX_ENCODINGS = 4


@dataclass(frozen=True, slots=True)
class Filter:
    """What a subscriber wants of a run; empty sets want everything."""

    categories: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()

    def select(self, frames: list[Frame]) -> list[Frame]:
        """Those that pass: the very same list, where nothing is filtered."""
        if self.categories or self.actions:
            return [frame for frame in frames if self.passes(frame)]
        return frames

    def passes(self, frame: Frame) -> bool:
        return frame.unfiltered or (
            (not self.categories or frame.category in self.categories)
            and (not self.actions or frame.action in self.actions)
        )


@dataclass(frozen=True, slots=True)
class EventStream:
    """Server-Sent Events; without `typed`, events go without their `event:` line."""

    typed: bool = True

    content_type = "text/event-stream; charset=utf-8"

    def opening(self, run_id: str, retry_ms: int) -> bytes:
        return b"%b: open\n\n" % self.retry(retry_ms)

    def retry(self, retry_ms: int) -> bytes:
        """How long a client waits before it reconnects, spread so that no herd comes back."""
        return b"retry: %d\n\n" % (retry_ms * random.uniform(2 / 3, 4 / 3))

    def heartbeat(self, run_id: str) -> bytes:
        return b": heartbeat\n\n"

    def frame(self, frame: Frame) -> bytes:
        return frame.typed if self.typed else frame.untyped


@dataclass(frozen=True, slots=True)
class JsonLines:
    """One JSON object a line: what has no event in SSE is a control event here."""

    content_type = "application/x-ndjson; charset=utf-8"

    def opening(self, run_id: str, retry_ms: int) -> bytes:
        return self.heartbeat(run_id)

    def retry(self, retry_ms: int) -> bytes:
        return b""

    def heartbeat(self, run_id: str) -> bytes:
        return self.frame(Frame.control(run_id, "heartbeat", None, position=ZERO))

    def frame(self, frame: Frame) -> bytes:
        return frame.json + b"\n"


WireFormat = EventStream | JsonLines


class StreamFormat(NamedTuple):
    """What a subscriber gets of a run: which events, and in which form."""

    wanted: Filter
    wire: WireFormat


def count_events(frames: list[Frame]) -> int:
    """How many of some frames are no control events."""
    return sum([frame.category != RESERVED_CATEGORY for frame in frames])


def http_chunk(body: bytes) -> bytes:
    """A piece of a body in chunks, as it goes over the wire (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


class FrameBatch:
    """Consecutive frames of a run, joined once for each view that asks.

    They are all that the log held after `since` (exclusive) up to `position` (inclusive).
    `events` is how many of them are no control events, `size` that of their bytes, `cost`
    about what the batch takes in memory.
    """

    __slots__ = ("_joined", "cost", "events", "frames", "position", "since", "size")

    def __init__(self, since: EventId, frames: list[Frame]):
        self.since = since
        self.frames = frames
        self.position = frames[-1].position
        self.events = count_events(frames)
        self.size = sum([len(frame.typed) for frame in frames])
        self.cost = 2 * self.size + BYTES_PER_FRAME * len(frames)
        self._joined: list[tuple[tuple[StreamFormat, bool], tuple[bytes, int]]] = []

    def encode(self, view: StreamFormat, chunked: bool = False) -> tuple[bytes, int]:
        """The bytes of a view, as a chunk or as they are, and how many events they are."""
        wanted = view, chunked
        for known, joined in self._joined:  # few, and mostly the very same view
            if known == wanted:
                return joined
        passed, frame = view.wanted.select(self.frames), view.wire.frame
        body = b"".join([frame(each) for each in passed])
        events = self.events if passed is self.frames else count_events(passed)
        joined = http_chunk(body) if chunked else body, events
        if len(self._joined) < MAX_ENCODINGS:
            self._joined.append((wanted, joined))
        return joined

    def after(self, cursor: EventId) -> "FrameBatch":
        """What of the batch comes after a cursor below its position."""
        if cursor <= self.since:
            return self
        return FrameBatch(cursor, [frame for frame in self.frames if frame.position > cursor])

"""The formats of a stream: Server-Sent Events or JSON lines, and the filter before them.

SSE is section 9.2 of the HTML Living Standard.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..event_id import ZERO
from .frame import Frame


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects events by category and action; an empty set selects every one."""

    categories: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()

    def select(self, frames: list[Frame]) -> list[Frame]:
        """Return the frames that pass; without any filter, return the same list object."""
        if self.categories or self.actions:
            return [frame for frame in frames if self.passes(frame)]
        return frames

    def passes(self, frame: Frame) -> bool:
        """Return whether a frame passes."""
        return frame.unfiltered or (
            (not self.categories or frame.category in self.categories)
            and (not self.actions or frame.action in self.actions)
        )


@dataclass(frozen=True, slots=True)
class EventStream:
    """Server-Sent Events; if `typed` is false, events have no `event:` line.

    Only frames end with an empty line. Many decoders dispatch a block without data as an event
    that is empty. So `retry:` and comments are lines of the block of the next frame. They take
    effect when the line is read, also if no frame follows (section 9.2.6).
    """

    typed: bool = True

    content_type = "text/event-stream; charset=utf-8"
    ends_early = False
    cuts = False

    def is_last(self, frame: Frame) -> bool:
        """Whether the stream ends with a frame, if it `ends_early`."""
        return False

    def opening(self, run_id: str, retry_ms: int) -> bytes:
        """Return the first bytes of a stream."""
        return b"%b: open\n" % self.retry(retry_ms)

    def retry(self, retry_ms: int) -> bytes:
        """Return how long the client waits before it reconnects, about `retry_ms`.

        The time is random, so that clients that were disconnected together do not return
        together.
        """
        return b"retry: %d\n" % (retry_ms * random.uniform(2 / 3, 4 / 3))

    def heartbeat(self, run_id: str) -> bytes:
        """Return a heartbeat, which is a comment."""
        return b": heartbeat\n"

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        return frame.typed if self.typed else frame.untyped


@dataclass(frozen=True, slots=True)
class JsonLines:
    """One JSON object a line.

    A heartbeat, which is a comment in SSE, is a control event here.
    """

    content_type = "application/x-ndjson; charset=utf-8"
    ends_early = False
    cuts = False

    def is_last(self, frame: Frame) -> bool:
        """Whether the stream ends with a frame, if it `ends_early`."""
        return False

    def opening(self, run_id: str, retry_ms: int) -> bytes:
        """Return the first bytes of a stream, a heartbeat."""
        return self.heartbeat(run_id)

    def retry(self, retry_ms: int) -> bytes:
        """Return nothing: this format has no retry."""
        return b""

    def heartbeat(self, run_id: str) -> bytes:
        """Return a heartbeat, which is a control event."""
        return self.frame(Frame.control(run_id, "heartbeat", None, cursor=ZERO))

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        return frame.json + b"\n"


WireFormat = EventStream | JsonLines


class FrameFilter(Protocol):
    """Selects frames."""

    def select(self, frames: list[Frame]) -> list[Frame]:
        """Return the frames that pass; if all do without a look, return the same list object."""


class StreamFormat(NamedTuple):
    """What a subscriber gets of its run: the events that pass a filter, in a wire format."""

    filter: FrameFilter
    wire: WireFormat

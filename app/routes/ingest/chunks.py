"""The chunks of a dialect as new events: what begins a run, what ends it, and what is between."""

import re
from typing import Any, NamedTuple

from ...streaming.errors import InvalidEvent
from ...streaming.event import LIFECYCLE
from ...streaming.new_event import NewEvent
from ...streaming.wire.dialects import DONE, MESSAGE, Dialect
from ..writing.exact_json import NotJson, parse_json
from .line_reader import ReadEvent
from .sse_parser import SseEvent

CATEGORY = "sse"

_DONE = DONE.encode()
_NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")
MAX_ACTION_LENGTH = 64


class _Chunk(NamedTuple):
    """A chunk with its data, which is a JSON value, or a text that is no JSON."""

    name: str
    data: Any
    is_text: bool


class _Held(NamedTuple):
    """A chunk that may end the run: the event for then, the one for else, and its bytes."""

    line: int
    last: NewEvent
    ordinary: NewEvent
    size: int


class Chunks:
    """Makes new events of the chunks of one body.

    A chunk that ends an answer is held back until it is known whether another one follows: loops
    of agents end several times, and some streams say that they have failed before they end. A run
    fails if any chunk said so.
    """

    __slots__ = ("_dialect", "_done", "_failed", "_held", "_is_first", "_max_event_bytes")

    def __init__(self, dialect: Dialect, max_event_bytes: int) -> None:
        self._dialect = dialect
        self._max_event_bytes = max_event_bytes
        self._held: _Held | None = None
        self._is_first = True
        self._failed = False
        self._done = False

    @property
    def line(self) -> int | None:
        """The number of the line where the chunk begins that is held, None without one."""
        return self._held and self._held.line

    @property
    def size(self) -> int:
        """The number of bytes that are held, as they came."""
        return self._held.size if self._held is not None else 0

    def add(self, event: SseEvent, events: list[ReadEvent]) -> None:
        """Add what the next chunk gives to `events`; raises EventTooLarge."""
        if event.data == _DONE:
            self._end(event.line, events)
            return
        if self._held is not None:
            events.append(ReadEvent(self._held.line, self._held.ordinary, None))
            self._held = None
        chunk, ordinary = self._parse(event)
        kind = None if self._done else self._dialect.kind(chunk.name, chunk.data)
        is_first, self._is_first = self._is_first, False
        if is_first and kind in self._dialect.begins:
            begin = self._event(chunk, LIFECYCLE, "started")
            events.append(ReadEvent(event.line, begin, None))
        elif action := self._last_action(kind):
            last = self._event(chunk, LIFECYCLE, action)
            self._held = _Held(event.line, last, ordinary, event.size)
        else:
            events.append(ReadEvent(event.line, ordinary, None))

    def end(self, line: int, events: list[ReadEvent], *, broken: bool) -> None:
        """Add what the end of the body gives; `line` is that of the end. Safe to repeat."""
        if self._held is not None or (self._failed and not self._done and not broken):
            self._end(line, events)
        self._done = True

    def clear(self) -> None:
        """Drop what is held."""
        self._held = None
        self._done = True

    def _end(self, line: int, events: list[ReadEvent]) -> None:
        """Add the last event of the run, if it was not added before."""
        held, self._held = self._held, None
        if held is not None:
            events.append(ReadEvent(held.line, held.last, None))
        elif not self._done:
            action = "failed" if self._failed else "completed"
            events.append(ReadEvent(line, NewEvent.of(LIFECYCLE, action), None))
        self._done = True

    def _last_action(self, kind: str | None) -> str | None:
        """Return with which action the run ends if nothing follows a chunk; None if it goes on."""
        dialect = self._dialect
        if kind in dialect.fails:
            self._failed = True
        elif kind not in dialect.completes and kind not in dialect.cancels:
            return None
        if self._failed:
            return "failed"
        return "cancelled" if kind in dialect.cancels else "completed"

    def _parse(self, event: SseEvent) -> tuple[_Chunk, NewEvent]:
        """Return a chunk, and its event if it neither begins nor ends the run."""
        action = _action_of(event.name)
        try:
            chunk = _Chunk(event.name, parse_json(event.data, self._max_event_bytes), False)
            return chunk, self._event(chunk, CATEGORY, action)
        except (NotJson, InvalidEvent):
            chunk = _Chunk(event.name, event.data.decode(), True)
            return chunk, self._event(chunk, CATEGORY, action)

    def _event(self, chunk: _Chunk, category: str, action: str) -> NewEvent:
        """Return the event of a chunk. Its source has what its names and data do not say."""
        known_name = MESSAGE if category == LIFECYCLE else action
        said: dict[str, Any] = {} if chunk.name == known_name else {"event": chunk.name}
        if chunk.is_text:
            said["text"] = True
        source = {"sse": said} if said else None
        return NewEvent.of(category, action, chunk.data, source, max_bytes=self._max_event_bytes)


def _action_of(name: str) -> str:
    """Return the action for the name of an SSE event: other characters become `_`."""
    return _NO_NAME_CHARACTER.sub("_", name)[:MAX_ACTION_LENGTH] or MESSAGE

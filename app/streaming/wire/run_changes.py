"""The stream of all runs: each frame is the event of a run that has changed.

The frames of the log of changes hold these events as their data. The `id:` is the cursor in that
log, and not the event's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ..event import NAME
from ..runs.changes import CATEGORY, CHANGES
from .formats import EventStream, JsonLines
from .frame import Frame
from .payload import comment, payload_event

_BEFORE, _AFTER = b'"data":', b',"source":'
_OWN_NAME = b'"run_id":"%b"' % CHANGES.encode()


@dataclass(frozen=True, slots=True, eq=False)
class RunFilter:
    """Selects the changes of runs whose ids pass.

    `name` is what makes two filters the same, so that their subscribers share bytes.
    """

    name: tuple[str, ...]
    allowed: Callable[[str], bool]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunFilter) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def select(self, frames: list[Frame]) -> list[Frame]:
        """Return the frames that pass."""
        return [frame for frame in frames if self.passes(frame)]

    def passes(self, frame: Frame) -> bool:
        """Return whether a frame passes; control events of the stream itself do."""
        return frame.category != CATEGORY or self.allowed(orjson.loads(_event_of(frame))["run_id"])


@dataclass(frozen=True, slots=True)
class ChangesEventStream(EventStream):
    """The changes as Server-Sent Events."""

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        if frame.category != CATEGORY:
            return EventStream.frame(self, _without_run(frame))
        event = _event_of(frame)
        name = _name_of(orjson.loads(event)) if self.typed else None
        line = b"event: %b\n" % name if name else b""
        return b"id: %b\n%bdata: %b\n\n" % (_cursor(frame), line, event)


@dataclass(frozen=True, slots=True)
class ChangesPayloadEvents(EventStream):
    """The data of the changes alone, as Server-Sent Events."""

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        if frame.category != CATEGORY:
            return comment(_without_run(frame))
        return payload_event(b"id: %b\n" % _cursor(frame), _event_of(frame))


@dataclass(frozen=True, slots=True)
class ChangesLines(JsonLines):
    """The changes as JSON lines. Each event has the member `cursor`, from which to resume."""

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        if frame.category != CATEGORY:
            return JsonLines.frame(self, _without_run(frame))
        return b'%b,"cursor":"%b"}\n' % (_event_of(frame).removesuffix(b"}"), _cursor(frame))


def _cursor(frame: Frame) -> bytes:
    return str(frame.cursor).encode()


def _event_of(frame: Frame) -> bytes:
    """Return the JSON of the event that an entry of the log of changes holds."""
    json = frame.json
    return json[json.index(_BEFORE) + len(_BEFORE) : json.rindex(_AFTER)]


def _without_run(frame: Frame) -> Frame:
    """Return a control event of the stream itself, which is of no run."""
    return frame._replace(typed=frame.typed.replace(_OWN_NAME, b'"run_id":null', 1))


def _name_of(event: dict[str, Any]) -> bytes | None:
    category, action = event["event"]["category"] or "", event["event"]["action"] or ""
    if not (NAME.match(category) and NAME.match(action)):
        return None
    return f"{category}.{action}".encode()

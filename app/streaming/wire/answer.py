"""An answer in a dialect: its chunks as Server-Sent Events, from its beginning to its one end."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from ..event import LIFECYCLE, REQUEST_CATEGORY, RESERVED_CATEGORY, Event
from .dialects import AG_UI, AI_SDK, LANGGRAPH, OPENAI, Dialect
from .formats import EventStream
from .frame import Frame
from .payload import Payload, comment, payload_of

# With these, the events of an answer are not all there. Its client knows no notice of that.
_NOTICES = {
    "gap": "events of this answer are missing",
    "reset": "this answer is gone: another one has taken its place",
}

# The categories of events that are not of the answer.
_NO_CHUNKS = (REQUEST_CATEGORY, RESERVED_CATEGORY)

_DONE = b"data: [DONE]\n\n"

# What an `event:` line cannot say, or need not. Some clients split lines at more than CR and LF.
_NO_NAME = re.compile("[\r\n\0\v\f\x1c-\x1e\x85\u2028\u2029]|\\A\\Z|\\Amessage\\Z")

# What a lifecycle event is called in a dialect whose events have names.
_NAMES = {"started": "metadata", "completed": "end"}


class _Chunk(msgspec.Struct):
    type: str


_read_chunk = msgspec.json.Decoder(_Chunk).decode


class _Run(msgspec.Struct):
    run_id: str | None


_read_run = msgspec.json.Decoder(_Run).decode


@dataclass(frozen=True, slots=True)
class AnswerEvents(EventStream):
    """The chunks of an answer, as the clients of a dialect expect them.

    A chunk is an event whose data is an object with a `type`, or any data where events have names.
    Other events are left out. The stream ends with the first terminal event. If that is no chunk,
    or if events are missing, the gateway says so in the words of the dialect.

    Attributes:
        dialect: whose words they are.
        cuts: whether a stream that ends before its answer is cut off without a proper end. A
            client that knows no cursor takes a proper end for that of the answer.
    """

    dialect: Dialect = AI_SDK
    cuts: bool = True

    ends_early = True

    def is_last(self, frame: Frame) -> bool:
        """Whether the stream ends with a frame."""
        return frame.terminal or _is_notice(frame)

    def is_chunk(self, event: Event) -> bool:
        """Whether an event is sent as a chunk."""
        if event.category in _NO_CHUNKS or event.data_json.strip() == b"null":
            return False
        return self.dialect.by_name or _has_type(event.data_json)

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        if frame.is_control and not _is_notice(frame):
            return comment(frame)
        payload = self._chunk_of(frame.category, frame.json)
        if payload is not None and self._lacks_a_reason(frame, payload):
            payload = None
        head = frame.typed[: frame.name_at]
        if payload is not None:
            name = self._name_of(frame, payload)
            line = b"" if _NO_NAME.search(name) else b"event: %b\n" % name.encode()
            chunk = b"%b%bdata: %b\n\n" % (head, line, payload.json)
        elif self.is_last(frame):
            chunk = _ending(self.dialect, frame)
        else:
            return b""
        if self.dialect is AI_SDK and frame.terminal and frame.action == "cancelled":
            # WorkflowChatTransport asks again until there is one; others take no notice of it.
            chunk += _event({"type": "finish"})
        return chunk + _DONE if self._says_done and self.is_last(frame) else chunk

    def end(self, event: Event) -> bytes:
        """Return the bytes for a client that comes back though it has had the terminal event."""
        return _ending(self.dialect, Frame.of(event)) + (_DONE if self._says_done else b"")

    @property
    def _says_done(self) -> bool:
        return self.dialect in (AI_SDK, OPENAI)

    def _chunk_of(self, category: str | None, event: bytes) -> Payload | None:
        if category in _NO_CHUNKS:
            return None
        payload = payload_of(event)
        if payload is None or self.dialect.by_name:
            return payload
        return payload if _has_type(payload.json) else None

    def _lacks_a_reason(self, frame: Frame, payload: Payload) -> bool:
        """Whether an end that is no success has data which no `error` event of LangGraph has."""
        if self.dialect is not LANGGRAPH or not frame.terminal or frame.action == "completed":
            return False
        return payload.name is None and not _says_why(payload.json)

    def _name_of(self, frame: Frame, payload: Payload) -> str:
        """Return what the `event:` line of a chunk says, empty if the dialect has none."""
        if self.dialect is OPENAI:
            return _read_chunk(payload.json).type
        if self.dialect is not LANGGRAPH:
            return ""
        if payload.name is None and frame.category == LIFECYCLE:
            return _NAMES.get(frame.action or "", "error")
        return payload.name or frame.action or ""


def _is_notice(frame: Frame) -> bool:
    return frame.is_control and frame.action in _NOTICES


def _has_type(json: bytes) -> bool:
    try:
        _read_chunk(json)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _says_why(json: bytes) -> bool:
    data = orjson.loads(json)
    return isinstance(data, dict) and bool(data.keys() & {"error", "message"})


def _ending(dialect: Dialect, frame: Frame) -> bytes:
    """Return what the gateway says at an end for which the answer has no chunk."""
    action, why = frame.action or "", _why(frame)
    if dialect is AI_SDK:
        if action == "completed":
            return _event({"type": "finish"})
        if action == "cancelled":
            return _event({"type": "abort"})
        return _event({"type": "error", "errorText": why})
    if dialect is AG_UI:
        if action == "completed":
            run_id = _read_run(frame.json).run_id
            return _event({"type": "RUN_FINISHED", "threadId": run_id, "runId": run_id})
        return _event({"type": "RUN_ERROR", "message": why, "code": action})
    if action == "completed":
        return b""
    if dialect is OPENAI:
        error: dict[str, Any] = {"type": "error", "code": action, "message": why, "param": None}
        if frame.sequence is not None:
            # The SDK's type has one. This is higher than that of any chunk: they count from 0.
            error["sequence_number"] = frame.sequence
        return _event(error)
    return b"event: error\n" + _event({"error": action, "message": why})


def _why(frame: Frame) -> str:
    if frame.is_control:
        return _NOTICES[frame.action or ""]
    payload = payload_of(frame.json)
    data = None if payload is None else orjson.loads(payload.json)
    if isinstance(data, dict):
        data = next((data[name] for name in ("message", "error", "reason") if name in data), None)
    return data if isinstance(data, str) else f"the run is {frame.action}"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)

"""The formats of a merged stream: the frames of its runs, with the cursor of the stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..event import timestamp_now
from ..wire.formats import EventStream, JsonLines
from ..wire.frame import Frame
from ..wire.payload import comment, payload_event, payload_of
from .cursor import MergedCursor

# The frames that passed the filter, each with the index of its run in the list.
Passed = Sequence[tuple[int, Frame]]


_BATCH = (
    b'{"id":null,"run_id":null,"sequence":null,"timestamp":"%b",'
    b'"event":{"category":"gateway","action":"batch"},"data":[%b],"source":null,"cursor":"%b"}\n'
)


@dataclass(frozen=True, slots=True)
class MergedEventStream(EventStream):
    """Server-Sent Events, one for each frame; if `batched`, one for all that are sent together.

    With many runs the cursor is longer than most events.
    """

    batched: bool = False

    def frames(self, start: MergedCursor, passed: Passed, end: MergedCursor) -> bytes:
        """Return the bytes of frames that lead from one cursor to another."""
        if self.batched:
            name = b"event: gateway.batch\n" if self.typed else b""
            return b"id: %b\n%bdata: [%b]\n\n" % (end.to_bytes(), name, _array(passed))
        return b"".join(
            b"id: %b\n%b" % (cursor, frame.typed[frame.name_at if self.typed else frame.data_at :])
            for cursor, frame in _with_cursors(start, passed, end)
        )


@dataclass(frozen=True, slots=True)
class MergedLines(JsonLines):
    """JSON lines. Each has the member `cursor`, from which to resume."""

    batched: bool = False

    def frames(self, start: MergedCursor, passed: Passed, end: MergedCursor) -> bytes:
        """Return the bytes of frames that lead from one cursor to another."""
        if self.batched:
            return _BATCH % (timestamp_now().encode(), _array(passed), end.to_bytes())
        return b"".join(
            b'%b,"cursor":"%b"}\n' % (frame.json.removesuffix(b"}"), cursor)
            for cursor, frame in _with_cursors(start, passed, end)
        )


@dataclass(frozen=True, slots=True)
class MergedPayloadEvents(EventStream):
    """The data of each event as a Server-Sent Event; if `batched`, an array of all of them.

    What has no payload (control events, data that is null) moves the cursor of the next event.
    """

    batched: bool = False

    def frame(self, frame: Frame) -> bytes:
        """Return a control event of the stream itself."""
        return comment(frame)

    def frames(self, start: MergedCursor, passed: Passed, end: MergedCursor) -> bytes:
        """Return the bytes of frames that lead from one cursor to another."""
        if self.batched:
            comments = [comment(frame) for _, frame in passed if frame.is_control]
            frames = (frame for _, frame in passed if not frame.is_control)
            payloads = [payload.json for frame in frames if (payload := payload_of(frame.json))]
            event = b"id: %b\ndata: [%b]\n\n" % (end.to_bytes(), b",".join(payloads))
            return b"".join([*comments, event if payloads else b""])
        return b"".join(
            self._one(cursor, frame) for cursor, frame in _with_cursors(start, passed, end)
        )

    def _one(self, cursor: bytes, frame: Frame) -> bytes:
        if frame.is_control:
            return comment(frame)
        return payload_event(b"id: %b\n" % cursor, frame.json)


MergedFormat = MergedEventStream | MergedLines | MergedPayloadEvents


def _array(passed: Passed) -> bytes:
    return b",".join([frame.json for _, frame in passed])


def _with_cursors(
    start: MergedCursor, passed: Passed, end: MergedCursor
) -> Iterator[tuple[bytes, Frame]]:
    """Yield each frame with the cursor of a client that has received it."""
    cursor = start
    for run, frame in passed[:-1]:
        cursor = cursor.moved({run: frame.cursor})
        yield cursor.to_bytes(), frame
    yield end.to_bytes(), passed[-1][1]

"""The batch: consecutive frames of a run, encoded once for each stream format."""

from bisect import bisect_right
from operator import attrgetter
from typing import Any, NamedTuple

from ..event_id import Cursor, EventId
from ..log.continuity import Notice, Stretch, continues, stretches
from ..log.log_state import LogState
from ..log.position import Position
from .formats import StreamFormat, WireFormat
from .frame import Frame, frames_from

# A batch has at most so many bytes, or one frame. It is what a slow client makes wait in memory.
MAX_BATCH_BYTES = 64 * 1024

# About how much memory a frame takes beside its bytes.
BYTES_PER_FRAME = 400

# A batch keeps its bytes for this many stream formats; for others it encodes them each time.
MAX_ENCODINGS = 4

_cursor = attrgetter("cursor")


def http_chunk(body: bytes) -> bytes:
    """Return bytes as one chunk of a chunked body (RFC 9112, section 7.1).

    No bytes make no chunk, since an empty chunk would end the body.
    """
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


class Encoded(NamedTuple):
    """A batch in one stream format.

    Attributes:
        chunk: its bytes.
        events: how many events they hold.
        last_id: the cursor of the last of them, None if there is none.
        dropped: how many events the filter has dropped after that one.
        oldest_ms: the time in the id of its oldest event, 0 if there is none.
        notices: the actions of the control events in it.
        is_over: whether the stream ends with it.
    """

    chunk: bytes
    events: int
    last_id: Cursor | None
    dropped: int
    oldest_ms: int = 0
    notices: tuple[str | None, ...] = ()
    is_over: bool = False


class FrameBatch:
    """The frames of a run from one position to another, without a hole; or a notice between them.

    Attributes:
        start: the position of a client that gets the batch next.
        end: the position of a client that has received the batch.
        events: how many frames are events: all, or none if it is a notice.
        is_gap: whether it is the notice that events are missing.
        is_reset: whether it is the notice that the log is another one.
        is_trimmed: whether it is a gap and the log retained nothing up to its start, or the archive
            lacks what should follow.
        hole_upto: where counting cannot tell which entries are missing, the id up to which some
            may be; else None.
        size: the bytes of the frames, as SSE.
    """

    __slots__ = (
        "_encoded",
        "end",
        "events",
        "frames",
        "hole_upto",
        "is_gap",
        "is_reset",
        "is_trimmed",
        "size",
        "start",
    )

    def __init__(
        self,
        start: Position,
        frames: list[Frame],
        end: Position,
        *,
        notice: Notice | None = None,
        is_trimmed: bool = False,
        hole_upto: EventId | None = None,
    ):
        self.start = start
        self.frames = frames
        self.end = end
        self.events = 0 if notice else len(frames)
        self.is_gap = notice == "gap"
        self.is_reset = notice == "reset"
        self.is_trimmed = is_trimmed
        self.hole_upto = hole_upto
        self.size = sum([len(frame.typed) for frame in frames])
        self._encoded: list[tuple[tuple[StreamFormat, bool], Encoded]] = []

    @property
    def cost(self) -> int:
        """About how much memory the batch takes, in bytes."""
        return 2 * self.size + BYTES_PER_FRAME * len(self.frames)

    def encode(self, stream_format: StreamFormat, chunked: bool = False) -> Encoded:
        """Return the batch in a stream format. If `chunked`, the bytes are one HTTP chunk."""
        key = stream_format, chunked
        for known, encoded in self._encoded:  # few, and mostly the same object
            if known == key:
                return encoded
        wire, is_over = stream_format.wire, False
        frames, encode_frame = stream_format.filter.select(self.frames), wire.frame
        if wire.ends_early:
            frames, is_over = _up_to_last(frames, wire)
        body = b"".join([encode_frame(frame) for frame in frames])
        chunk = http_chunk(body) if chunked else body
        if self.events:
            oldest_ms = frames[0].cursor.ms if frames else 0
            encoded = Encoded(chunk, *self._counts(frames), oldest_ms, is_over=is_over)
        else:
            notices = tuple([frame.action for frame in frames])
            encoded = Encoded(chunk, *self._counts(frames), 0, notices, is_over)
        if len(self._encoded) < MAX_ENCODINGS:
            self._encoded.append((key, encoded))
        return encoded

    def after(self, position: Position) -> "FrameBatch | None":
        """Return the part of the batch after a position, None if the position is not in it.

        If the sequence of the start is not known, a notice stands before it, or entries may be
        missing within it. Then nobody else has a position in it.
        """
        start, frames = self.start, self.frames
        if start.sequence is None:
            return None
        if position == start and not position.is_start:  # which may be that of a later log
            return self
        if position.epoch != self.end.epoch or not self.events:
            return None
        passed = bisect_right(frames, position.id, key=_cursor)
        if passed == len(frames) or position.id < start.id:
            return None
        is_here = position.sequence in (None, start.sequence + passed)
        if position.is_entry or position.sequence is None:
            # Only the entry itself proves it: an older state of the log may have been restored.
            is_here &= passed > 0 and frames[passed - 1].cursor == position.id
        return FrameBatch(position, frames[passed:], self.end) if is_here else None

    def pieces(self) -> "list[FrameBatch]":
        """Return the batch in parts that follow one another, of MAX_BATCH_BYTES or one frame."""
        if self.size <= MAX_BATCH_BYTES or len(self.frames) == 1:
            return [self]
        pieces: list[FrameBatch] = []
        first, start, size = 0, self.start, 0
        for index, frame in enumerate(self.frames):
            if size and size + len(frame.typed) > MAX_BATCH_BYTES:
                end = self._position_before(index)
                pieces.append(FrameBatch(start, self.frames[first:index], end))
                first, start, size = index, end, 0
            size += len(frame.typed)
        pieces.append(FrameBatch(start, self.frames[first:], self.end))
        return pieces

    def _position_before(self, index: int) -> Position:
        sequence = self.start.sequence
        sequence = None if sequence is None else sequence + index
        return Position(self.end.epoch, self.frames[index - 1].cursor, sequence)

    def _counts(self, passed: list[Frame]) -> tuple[int, EventId | None, int]:
        if passed is self.frames or not self.events:
            return self.events, self.end.id if self.events else None, 0
        last_id = passed[-1].cursor if passed else None
        upto_last = bisect_right(self.frames, last_id, key=_cursor) if last_id else 0
        return len(passed), last_id, len(self.frames) - upto_last


def _up_to_last(frames: list[Frame], wire: WireFormat) -> tuple[list[Frame], bool]:
    """Return the frames up to the one with which the stream ends, and whether it is there."""
    for number, frame in enumerate(frames, 1):
        if wire.is_last(frame):
            return frames[:number], True
    return frames, False


def batches_after(run_id: str, position: Position, entries: list[Any]) -> list[FrameBatch]:
    """Return the entries of an XRANGE or XREAD reply as batches that follow a position.

    There is none if the entries alone do not prove that nothing is missing before or between
    them, and that the position is of the same log.
    """
    frames = frames_from(run_id, entries)
    if not continues(position, frames):
        return []
    last = frames[-1]
    end = Position(last.epoch, last.cursor, last.sequence)
    return FrameBatch(position, frames, end).pieces()


def batches_from(
    run_id: str, position: Position, entries: list[Any], state: LogState, *, whole: bool
) -> list[FrameBatch]:
    """Return how a log goes on from a position, as batches that follow one another.

    The entries and the state were read in one atomic step; see `stretches`. A batch without
    frames leads to another name of the same position.
    """
    frames = frames_from(run_id, entries)
    batches: list[FrameBatch] = []
    for each in stretches(position, frames, state, whole=whole):
        if each.notice:
            batches.append(notice_batch(run_id, each, state))
        else:
            batches += FrameBatch(each.start, frames[each.first : each.last], each.end).pieces()
    return batches


def notice_batch(
    run_id: str, stretch: Stretch, state: LogState, requested: str | None = None
) -> FrameBatch:
    """Return the batch that tells a client of a gap or a reset.

    `requested` is what the client has asked for, if that is not the id of the stretch's start.
    """
    data = state.control_data(requested or str(stretch.start.id))
    notice = Frame.control(run_id, str(stretch.notice), data, cursor=stretch.end.id)
    is_gap = stretch.notice == "gap"
    return FrameBatch(
        stretch.start,
        [notice],
        stretch.end,
        notice=stretch.notice,
        is_trimmed=is_gap and _is_trimmed(stretch, state),
        hole_upto=state.deleted if is_gap and stretch.end.sequence is None else None,
    )


def _is_trimmed(gap: Stretch, state: LogState) -> bool:
    start = gap.start.id
    return state.first_id is None or state.first_id.before() > start or state.lost_upto > start

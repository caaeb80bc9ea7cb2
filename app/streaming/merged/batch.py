"""The merged batch: what several runs have sent together, encoded once for each stream format."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..event_id import ZERO, EventId
from ..log.position import Position
from ..wire.formats import StreamFormat
from ..wire.frame import Frame
from ..wire.frame_batch import MAX_BATCH_BYTES, Encoded, FrameBatch, http_chunk
from .cursor import MergedCursor, RunList
from .formats import MergedFormat


class MergedPosition(NamedTuple):
    """How far each run of a list was read, and from where a client resumes that has got there."""

    positions: tuple[Position, ...]
    id: MergedCursor

    @classmethod
    def of(cls, runs: RunList, positions: Iterable[Position]) -> "MergedPosition":
        """Return the position in the runs of a list."""
        positions = tuple(positions)
        return cls(positions, MergedCursor(runs, [_id_of(each) for each in positions]))

    def moved(self, positions: Mapping[int, Position]) -> "MergedPosition":
        """Return it with other positions for some runs, which are indexes of the list."""
        all_positions = list(self.positions)
        for run, position in positions.items():
            all_positions[run] = position
        ids = {run: _id_of(position) for run, position in positions.items()}
        return MergedPosition(tuple(all_positions), self.id.moved(ids))

    @property
    def is_start(self) -> bool:
        """Whether nothing was read of any run."""
        return all(position.is_start for position in self.positions)


def _id_of(position: Position) -> EventId:
    """Return from which id a client resumes.

    Before a log's first event that is no id of it, or the log would seem to be another one.
    """
    return ZERO if position.sequence == 0 else position.id


class Part(NamedTuple):
    """Frames of one run: its index in the list, and how many of the frames are events."""

    run: int
    frames: list[Frame]
    events: int


class MergedBatch(NamedTuple):
    """The parts that lead from one position in several runs to another."""

    start: MergedPosition
    parts: list[Part]
    end: MergedPosition

    def encode(self, stream_format: StreamFormat, chunked: bool = False) -> Encoded:
        """Return the batch in a stream format. If `chunked`, the bytes are one HTTP chunk.

        The last frame has the cursor of the batch's end. So what the filter drops after it does
        not count as dropped.
        """
        wire = stream_format.wire
        assert isinstance(wire, MergedFormat)
        passed: list[tuple[int, Frame]] = []
        events = dropped = oldest_ms = 0
        notices: list[str | None] = []
        for part in self.parts:
            frames = stream_format.filter.select(part.frames)
            passed += [(part.run, frame) for frame in frames]
            if not part.events:
                notices += [frame.action for frame in frames]
                continue
            events += len(frames)
            dropped += part.events - len(frames)
            if frames:
                first_ms = frames[0].cursor.ms
                oldest_ms = min(oldest_ms or first_ms, first_ms)
        if not passed:
            return Encoded(b"", 0, None, dropped)
        body = wire.frames(self.start.id, passed, self.end.id)
        chunk = http_chunk(body) if chunked else body
        return Encoded(chunk, events, self.end.id, 0, oldest_ms, tuple(notices))


class Gatherer:
    """Puts what the runs send one after another together into merged batches.

    Attributes:
        position: where the last batch ended.
    """

    def __init__(self, position: MergedPosition):
        self.position = position
        self._parts: list[Part] = []
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether a batch should be taken before more is added."""
        return self._size >= MAX_BATCH_BYTES

    @property
    def is_empty(self) -> bool:
        return not self._parts

    def add(self, run: int, batch: FrameBatch) -> None:
        """Add a batch of a run: events, or a notice."""
        if batch.events:
            self._add(run, batch.frames, batch.events, batch.size)
        else:
            for notice in batch.frames:
                self.add_control(run, notice, batch.end)

    def add_control(self, run: int, frame: Frame, position: Position) -> None:
        """Add a control event of a run, which a client at a position has received."""
        self._add(run, [frame._replace(cursor=_id_of(position))], 0, len(frame.typed))

    def _add(self, run: int, frames: list[Frame], events: int, size: int) -> None:
        self._parts.append(Part(run, frames, events))
        self._size += size

    def take(self, end: MergedPosition) -> MergedBatch:
        """Return what was added, as a batch that leads to a position."""
        batch = MergedBatch(self.position, self._parts, end)
        self.position = end
        self._parts, self._size = [], 0
        return batch

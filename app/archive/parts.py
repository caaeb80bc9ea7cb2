"""Parts: objects of bounded size with the events of a log, written and read as a whole."""

import hashlib
import re
import zlib
from bisect import bisect_right

from ..streaming.event_id import EventId
from ..streaming.log.replies import parse_mark
from ..streaming.redis.connection import Reply
from .lines import line_of, parse_line
from .manifest import Part
from .names import LogName

# A part is finished when its lines have so many bytes.
PART_BYTES = 2 * 1024 * 1024

# How every line begins.
_LINE_ID = re.compile(rb'\{"id":"([0-9]{1,20}-[0-9]{1,20})"')

_GZIP = 31  # of zlib: with the header and the checksum of gzip
# Higher levels take twice the time, and save less than a twentieth.
_LEVEL = 4


class PartWriter:
    """Takes the entries of a log, one after another, until a part is full."""

    def __init__(self, log_name: LogName):
        self._log_name = log_name
        self._begin()

    def _begin(self) -> None:
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._packed: list[bytes] = []
        self._entries: list[Reply] = []  # the first and the last one
        self.count = 0
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether the part should take no more entries."""
        return self._size >= PART_BYTES

    def add(self, entry: Reply) -> None:
        """Take an entry."""
        line = line_of(self._log_name.run_id, entry, self._log_name.epoch) + b"\n"
        self._packed.append(self._packer.compress(line))
        self._entries[1:] = [entry]
        self.count += 1
        self._size += len(line)

    def finish(self) -> tuple[Part, bytes]:
        """Return the part and its object, and begin the next one. There must be an entry."""
        data = b"".join([*self._packed, self._packer.flush()])
        sha256 = hashlib.sha256(data).hexdigest()
        first, last = parse_mark(self._entries[0]), parse_mark(self._entries[-1])
        part = Part(
            name=self._log_name.part(first.cursor),
            first_id=first.cursor,
            last_id=last.cursor,
            first_sequence=first.sequence,
            last_sequence=last.sequence,
            count=self.count,
            size=len(data),
            unpacked_size=self._size,
            sha256=sha256,
        )
        self._begin()
        return part, data


class PartEntries:
    """The entries of a part. Each is parsed when it is needed: a reader may want a few of many."""

    def __init__(self, lines: list[bytes], epoch: bytes):
        self._lines = lines
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lines)

    def id_at(self, index: int) -> EventId:
        """Return the id of an entry. Raises ValueError."""
        match = _LINE_ID.match(self._lines[index])
        if match is None:
            raise ValueError("a line has no id")
        return EventId.from_redis(match[1])

    def before(self, event_id: EventId) -> int:
        """Return how many entries stand at an id or before it. Raises ValueError."""
        return bisect_right(range(len(self)), event_id, key=self.id_at)

    def between(self, first: int, last: int) -> list[Reply]:
        """Return the entries from an index up to another (exclusive). Raises ValueError."""
        return [parse_line(line).to_entry(self._epoch) for line in self._lines[first:last]]


def read_part(part: Part, epoch: bytes, data: bytes) -> PartEntries:
    """Return the entries of a part, whose object holds `data`. Raises ValueError."""
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ValueError("its bytes are not those of its checksum")
    try:
        lines = zlib.decompressobj(_GZIP).decompress(data, part.unpacked_size + 1)
    except zlib.error as error:
        raise ValueError(f"it is no gzip: {error}") from None
    entries = PartEntries(lines.split(b"\n")[:-1], epoch)
    ids = [entries.id_at(0), entries.id_at(-1)] if entries else []
    if (len(entries), ids) != (part.count, [part.first_id, part.last_id]):
        raise ValueError("its events are not those that the manifest names")
    return entries

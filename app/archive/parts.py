"""Parts: objects of bounded size with the events of a log, written and read as a whole."""

import hashlib
import zlib
from collections.abc import Sequence

from ..streaming.event_id import EventId
from ..streaming.log.replies import parse_mark
from ..streaming.redis.connection import Reply
from .lines import line_of, parse_line
from .manifest import Part
from .names import LogName

# A part is finished when its lines have so many bytes.
PART_BYTES = 2 * 1024 * 1024

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


def read_part(part: Part, epoch: bytes, data: bytes) -> Sequence[Reply]:
    """Return the entries of a part, whose object holds `data`. Raises ValueError."""
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ValueError("its bytes are not those of its checksum")
    try:
        lines = zlib.decompressobj(_GZIP).decompress(data, part.unpacked_size + 1)
    except zlib.error as error:
        raise ValueError(f"it is no gzip: {error}") from None
    entries = [parse_line(line).to_entry(epoch) for line in lines.split(b"\n")[:-1]]
    ids = [EventId.from_redis(entries[at][0]) for at in (0, -1)] if entries else []
    if (len(entries), ids) != (part.count, [part.first_id, part.last_id]):
        raise ValueError("its events are not those that the manifest names")
    return entries

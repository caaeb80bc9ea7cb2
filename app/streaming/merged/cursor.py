"""The cursor of a merged stream: how far it has come in each of its runs, as one text.

`m1.` and base64url (RFC 4648, section 5) of these bytes:

    8  the hash of the list of runs
    4  the CRC-32 of what follows
    …  a varint: a ms than which no id is newer
    …  for each run, in the order of the list: 3 for the id 0-0; or how many ms its id is older than
       that, times 4, plus 0 if n is 0, 2 if n is the greatest there is, or else 1; then n follows

A varint has seven bits in each byte, the lowest first; the highest bit says that more follow.
"""

import hashlib
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from ..errors import InvalidInput
from ..event_id import ZERO, EventId

PREFIX = "m1."
_PREFIX = PREFIX.encode()
# 1,000 runs whose ids are as long as they may be need 27,000 characters.
MAX_LENGTH = 32_768

_MAX = 2**64 - 1
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_HASH_BYTES, _CRC_BYTES = 8, 4
_MAX_VARINT_BYTES = 10

# The ages of the ids are counted from a multiple of about a minute, so that they seldom change.
_STEP = 0xFFFF


class RunList(NamedTuple):
    """The runs of a merged stream, in the order of their ids, and the hash of them."""

    run_ids: tuple[str, ...]
    digest: bytes

    @classmethod
    def of(cls, run_ids: Iterable[str]) -> "RunList":
        """Return the list of some runs, which may come in any order."""
        ordered = tuple(sorted(run_ids))
        text = "\n".join(ordered).encode()
        return cls(ordered, hashlib.blake2b(text, digest_size=_HASH_BYTES).digest())


class MergedCursor:
    """An event id for each run of a list. One cursor is at most another if no id is greater.

    The ids are kept as they are written too: from one cursor to the next, mostly one moves.
    """

    __slots__ = ("_base", "_written", "ids", "runs")

    def __init__(self, runs: RunList, ids: Sequence[EventId]):
        self.runs = runs
        self.ids = tuple(ids)
        self._base = max(self.ids)[0] | _STEP
        self._written = [_written(self._base, event_id) for event_id in self.ids]

    @classmethod
    def parse(cls, text: str, runs: RunList, field: str) -> "MergedCursor":
        """Read a cursor of a list of runs.

        Raises InvalidInput, which names `field`, for anything else.
        """
        try:
            raw = _decode(text)
            if raw[:_HASH_BYTES] != runs.digest:
                raise ValueError(text)
            numbers = raw[_HASH_BYTES + _CRC_BYTES :]
            return cls(runs, tuple(_read_ids(numbers, len(runs.run_ids))))
        except (ValueError, IndexError):
            message = "must be a cursor that a stream of these runs has sent"
            raise InvalidInput(field, message) from None

    def moved(self, ids: Mapping[int, EventId]) -> "MergedCursor":
        """Return the cursor with other ids for some runs, which are indexes of the list."""
        all_ids = list(self.ids)
        for run, event_id in ids.items():
            all_ids[run] = event_id
        if max(ids.values(), default=ZERO)[0] > self._base:
            return MergedCursor(self.runs, all_ids)
        moved = object.__new__(MergedCursor)
        moved.runs, moved.ids, moved._base = self.runs, tuple(all_ids), self._base
        moved._written = self._written.copy()
        for run, event_id in ids.items():
            moved._written[run] = _written(self._base, event_id)
        return moved

    def to_bytes(self) -> bytes:
        """Return the text of the cursor in ASCII."""
        numbers = _varint(self._base) + b"".join(self._written)
        raw = self.runs.digest + _crc(numbers) + numbers
        return _PREFIX + b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=")

    def __str__(self) -> str:
        return self.to_bytes().decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MergedCursor) and self.ids == other.ids

    def __hash__(self) -> int:
        return hash(self.ids)

    def __le__(self, other: "MergedCursor") -> bool:
        return all(mine <= its for mine, its in zip(self.ids, other.ids, strict=True))


def _decode(text: str) -> bytes:
    """Return the bytes of a cursor; raises ValueError if they are damaged."""
    if not text.startswith(PREFIX) or len(text) > MAX_LENGTH:
        raise ValueError(text)
    encoded = text.removeprefix(PREFIX)
    raw = b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    if raw[_HASH_BYTES:][:_CRC_BYTES] != _crc(raw[_HASH_BYTES + _CRC_BYTES :]):
        raise ValueError(text)
    return raw


def _crc(numbers: bytes) -> bytes:
    return crc32(numbers).to_bytes(_CRC_BYTES, "big")


def _read_ids(numbers: bytes, count: int) -> Iterator[EventId]:
    """Yield `count` ids; raises ValueError or IndexError if there are not as many."""
    newest, at = _read_varint(numbers, 0)
    for _ in range(count):
        age, at = _read_varint(numbers, at)
        if age == 3:
            yield ZERO
            continue
        kind, n = age & 3, 0
        if kind == 1:
            n, at = _read_varint(numbers, at)
        elif kind == 2:
            n = _MAX
        ms = newest - (age >> 2)
        if kind == 3 or not (0 <= ms <= _MAX and n <= _MAX):
            raise ValueError(numbers)
        yield EventId(ms, n)
    if at != len(numbers):
        raise ValueError(numbers)


def _written(base: int, event_id: EventId) -> bytes:
    """Return the numbers of an id."""
    ms, n = event_id
    if not ms and not n:
        return b"\3"
    kind = 0 if not n else 2 if n == _MAX else 1
    return _varint((base - ms) << 2 | kind) + (_varint(n) if kind == 1 else b"")


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _read_varint(numbers: bytes, at: int) -> tuple[int, int]:
    """Return the number at an index, and the index behind it."""
    number, begun = 0, at
    while True:
        byte = numbers[at]
        number |= (byte & 0x7F) << 7 * (at - begun)
        at += 1
        if byte < 0x80:
            return number, at
        if at - begun == _MAX_VARINT_BYTES:
            raise ValueError(numbers)

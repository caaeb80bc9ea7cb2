"""The event id `<ms>-<n>`, which is the cursor on the wire: two numbers that compare."""

import re
from typing import Any, NamedTuple, Protocol

from .errors import InvalidInput

_FORM = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_MAX = 2**64 - 1


class Cursor(Protocol):
    """How far a client has come, as its `id:` lines say it: an event id, or one for each run."""

    def __le__(self, other: Any, /) -> bool: ...

    def __str__(self) -> str: ...


class EventId(NamedTuple):
    """A Redis stream id: milliseconds and a counter, each an unsigned 64-bit number."""

    ms: int
    n: int

    @classmethod
    def parse(cls, text: str, field: str = "id") -> "EventId":
        """Read `<ms>-<n>`.

        Raises InvalidInput, which names `field`, for anything else.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match:
            ms, n = int(match[1]), int(match[2])
            if ms <= _MAX and n <= _MAX:
                return cls(ms, n)
        raise InvalidInput(field, "must be an event id, <ms>-<n>, of two 64-bit numbers")

    @classmethod
    def from_redis(cls, raw: bytes) -> "EventId":
        """Read an id that Redis wrote, without checking it."""
        ms, _, n = raw.partition(b"-")
        return tuple.__new__(cls, (int(ms), int(n)))

    def before(self) -> "EventId":
        """Return the greatest id below this one; for 0-0, 0-0 itself."""
        if self.n:
            return EventId(self.ms, self.n - 1)
        return EventId(self.ms - 1, _MAX) if self.ms else self

    def __str__(self) -> str:
        return f"{self.ms}-{self.n}"


ZERO = EventId(0, 0)
"""The position before the first entry of any log."""

LAST = EventId(_MAX, _MAX)
"""The greatest id that exists."""

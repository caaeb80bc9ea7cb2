"""The admission: what this worker has taken in and Redis has not stored yet, within its bounds.

A Redis that is slow is felt by the producers in this way, and not by the worker's memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from ..capacity import Capacity
from ..streaming.errors import StreamingError

# What all bodies that are reservation may have together, as a multiple of the largest one. However
# small that is, a request of lines may be read from in larger pieces.
MAX_BODIES = 64
_MIN_BODY_BYTES = 256 * 1024


class TooBusy(StreamingError):
    """This worker holds as much as it may; nothing of what it refuses was stored."""


class Admission:
    """Counts the appends under way, the bodies still to come, the connections that linger over
    the rest of one that was refused, and the bytes that are reservation."""

    def __init__(self, max_body_bytes: int, capacity: Capacity):
        self.capacity = capacity
        self.most_bytes = MAX_BODIES * max(max_body_bytes, _MIN_BODY_BYTES)
        self.appends = 0
        self.reading = 0
        self.lingering = 0
        self.bytes = 0

    @contextmanager
    def linger(self) -> Iterator[bool]:
        """While what nobody wants is read; gives whether there is a place for that."""
        has_place = self.lingering < max(1, self.capacity.others // 2)
        self.lingering += has_place
        try:
            yield has_place
        finally:
            self.lingering -= has_place


class Reservation:
    """What one request holds of the admission, until it is let go of or the context ends."""

    __slots__ = ("_admission", "_placed", "bytes")

    def __init__(self, admission: Admission):
        self._admission = admission
        self._placed = False
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Take in some bytes more; raises TooBusy."""
        if self._admission.bytes + size > self._admission.most_bytes:
            raise TooBusy("too much waits to be stored")
        self._admission.bytes += size
        self.bytes += size

    def now(self, size: int) -> None:
        """Hold so many bytes instead of those before; raises TooBusy for more."""
        if size > self.bytes:
            self.hold(size - self.bytes)
        else:
            self.let_go(self.bytes - size)

    def let_go(self, size: int) -> None:
        self._admission.bytes -= size
        self.bytes -= size

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a body is waited for; raises TooBusy."""
        if self._admission.reading >= self._admission.capacity.bodies:
            raise TooBusy("too many bodies are still to come")
        self._admission.reading += 1
        try:
            yield
        finally:
            self._admission.reading -= 1

    def take_place(self) -> None:
        """Count an append whose body is there, until the context ends; raises TooBusy."""
        if self._admission.appends >= self._admission.capacity.appends:
            raise TooBusy("too many appends are under way")
        self._admission.appends += 1
        self._placed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._admission.appends -= self._placed
        self.let_go(self.bytes)

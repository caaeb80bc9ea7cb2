"""The intake: what this worker has taken in and Redis has not stored yet, within its bounds.

A Redis that is slow is felt by the producers in this way, and not by the worker's memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from app.places import Places
from app.streaming.errors import StreamingError

# What all bodies that are held may have together, as a multiple of the largest one. However
# small that is, a request of lines may be read from in larger pieces.
MOST_BODIES = 64
_LEAST_BODY = 256 * 1024


class TooBusy(StreamingError):
    """This worker holds as much as it may; nothing of what it refuses was stored."""


class Intake:
    """Counts the appends under way, the bodies still to come, the connections that linger over
    the rest of one that was refused, and the bytes that are held."""

    def __init__(self, max_body_bytes: int, places: Places):
        self.places = places
        self.most_bytes = MOST_BODIES * max(max_body_bytes, _LEAST_BODY)
        self.appends = 0
        self.reading = 0
        self.lingering = 0
        self.bytes = 0

    @contextmanager
    def linger(self) -> Iterator[bool]:
        """While what nobody wants is read; gives whether there is a place for that."""
        has_place = self.lingering < max(1, self.places.others // 2)
        self.lingering += has_place
        try:
            yield has_place
        finally:
            self.lingering -= has_place


class Held:
    """What one request holds of the intake, until it is let go of or the context ends."""

    __slots__ = ("_intake", "_placed", "bytes")

    def __init__(self, intake: Intake):
        self._intake = intake
        self._placed = False
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Take in some bytes more; raises TooBusy."""
        if self._intake.bytes + size > self._intake.most_bytes:
            raise TooBusy("too much waits to be stored")
        self._intake.bytes += size
        self.bytes += size

    def now(self, size: int) -> None:
        """Hold so many bytes instead of those before; raises TooBusy for more."""
        if size > self.bytes:
            self.hold(size - self.bytes)
        else:
            self.let_go(self.bytes - size)

    def let_go(self, size: int) -> None:
        self._intake.bytes -= size
        self.bytes -= size

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a body is waited for; raises TooBusy."""
        if self._intake.reading >= self._intake.places.bodies:
            raise TooBusy("too many bodies are still to come")
        self._intake.reading += 1
        try:
            yield
        finally:
            self._intake.reading -= 1

    def take_place(self) -> None:
        """Count an append whose body is there, until the context ends; raises TooBusy."""
        if self._intake.appends >= self._intake.places.appends:
            raise TooBusy("too many appends are under way")
        self._intake.appends += 1
        self._placed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._intake.appends -= self._placed
        self.let_go(self.bytes)

"""How much a worker admits at once: appends, bodies, bytes that wait for Redis or for clients.

A slow Redis must slow the producers down. It must not fill the worker's memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from flask import Response
from werkzeug.exceptions import ServiceUnavailable

from ..capacity import Capacity
from ..server.bodies.late_bodies import LateBodies
from ..streaming.errors import StreamingError

# The bytes of all bodies in memory, as a multiple of the largest body. A request of lines may
# be read in pieces larger than a small maximum, so there is a minimum for it.
MAX_BODIES = 64
MIN_BODY_BYTES = 256 * 1024

# The bytes of all pages that clients have not read yet.
MAX_UNSENT_BYTES = 256 * 1024 * 1024


class TooBusy(StreamingError):
    """This worker holds as much as it may. It stored nothing of what it refuses."""


class Limit:
    """Counts what a worker holds of one kind, up to a maximum."""

    __slots__ = ("held", "maximum")

    def __init__(self, maximum: int) -> None:
        self.held = 0
        self.maximum = maximum

    def take(self, amount: int = 1) -> bool:
        """Count `amount` in, and return True; if it is too much, return False."""
        if self.held + amount > self.maximum:
            return False
        self.held += amount
        return True

    def release(self, amount: int = 1) -> None:
        """Count `amount` out."""
        self.held -= amount


class LaneLimit(Limit):
    """A limit of which one lane takes no more than a part of what the other lanes leave free.

    A lane is what one server of Redis has to do. One that stands still leaves room for the others,
    and so do several: the more of them, the less is left. `least` is what a lane may hold in any
    case, while the limit has room for it.
    """

    __slots__ = ("_held_in", "_least", "_parts")

    def __init__(self, maximum: int, parts: int = 1, least: int = 1) -> None:
        super().__init__(maximum)
        self._parts = parts
        self._least = least
        self._held_in: dict[str, int] = {}

    def take(self, amount: int = 1, lane: str = "") -> bool:
        """Count `amount` in for a lane, and return True; if it is too much, return False."""
        before = self._held_in.get(lane, 0)
        after, left_free = before + amount, self.maximum - self.held + before
        if after > left_free or (after > self._least and after > left_free // self._parts):
            return False
        self.held += amount
        self._held_in[lane] = after
        return True

    def release(self, amount: int = 1, lane: str = "") -> None:
        """Count `amount` out for a lane."""
        super().release(amount)
        left = self._held_in.pop(lane, 0) - amount
        if left:  # else it is forgotten: nodes come and go
            self._held_in[lane] = left

    def move(self, amount: int, lane: str, to: str) -> None:
        """Count `amount` of a lane in another one, even if that is too much for it."""
        if amount:
            self.release(amount, lane)
            self.held += amount
            self._held_in[to] = self._held_in.get(to, 0) + amount


class Admission:
    """The limits of one worker.

    `appends` counts appends whose body is complete; `bodies` bodies that are still arriving,
    so that slow ones keep out nobody whose body is complete; `bytes` the bytes of bodies that
    are not stored yet; `lingering` the connections that read the rest of a refused body;
    `late_bodies` the bodies that get a moment to arrive though too many are arriving;
    `unsent_bytes` the bytes of pages that clients have not read.

    If there are several `lanes`, none of them takes more than half of the appends and the bytes
    that the others leave free.
    """

    def __init__(self, max_body_bytes: int, capacity: Capacity, lanes: bool = False) -> None:
        parts = 2 if lanes else 1
        body_bytes = max(max_body_bytes, MIN_BODY_BYTES)
        self.appends = LaneLimit(capacity.appends, parts)
        self.bodies = Limit(capacity.bodies)
        self.bytes = LaneLimit(MAX_BODIES * body_bytes, parts, least=body_bytes)
        self.lingering = Limit(max(1, capacity.others // 2))
        self.late_bodies = LateBodies(max(1, sum(capacity) // 4))
        self.unsent_bytes = Limit(MAX_UNSENT_BYTES)

    def hold_until_sent(self, response: Response) -> None:
        """Count the bytes of a response until it is sent or given up; raises 503."""
        size = len(response.get_data())
        if not self.unsent_bytes.take(size):
            raise ServiceUnavailable("too many pages are waiting for clients that do not read")
        response.call_on_close(lambda: self.unsent_bytes.release(size))


class Reservation:
    """What one request holds of the worker's limits, until its context ends.

    `lane` is that of its run, see `EventStore.lane_of`.
    """

    __slots__ = ("_admission", "_is_append", "_lane", "bytes")

    def __init__(self, admission: Admission, lane: str = "") -> None:
        self._admission = admission
        self._lane = lane
        self._is_append = False
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Hold `size` more bytes; raises TooBusy."""
        if not self._admission.bytes.take(size, self._lane):
            raise TooBusy("too many bytes are waiting to be stored")
        self.bytes += size

    def resize(self, size: int) -> None:
        """Hold `size` bytes in total from now on; raises TooBusy if that is too much."""
        if size > self.bytes:
            self.hold(size - self.bytes)
        else:
            self._admission.bytes.release(self.bytes - size, self._lane)
            self.bytes = size

    def move(self, lane: str) -> None:
        """Hold the bytes in another lane from now on: the run is on another server."""
        self._admission.bytes.move(self.bytes, self._lane, lane)
        self._lane = lane

    def may_receive(self) -> bool:
        """Return whether one more body may arrive now."""
        bodies = self._admission.bodies
        return bodies.held < bodies.maximum

    @property
    def late_bodies(self) -> LateBodies:
        """Where a body may arrive for a moment though too many are arriving."""
        return self._admission.late_bodies

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Count a body while it arrives; raises TooBusy."""
        if not self._admission.bodies.take():
            raise TooBusy("too many bodies are still arriving")
        try:
            yield
        finally:
            self._admission.bodies.release()

    def begin_append(self) -> None:
        """Count an append until the context ends; raises TooBusy."""
        if not self._admission.appends.take(1, self._lane):
            raise TooBusy("too many appends are in progress")
        self._is_append = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        """Hold nothing more."""
        if self._is_append:
            self._admission.appends.release(1, self._lane)
            self._is_append = False
        self.resize(0)

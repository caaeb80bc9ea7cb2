"""The client connections of a worker: how many there are, and which of them wait for a request.

When places run short, connections that wait are closed, of each kind those that have waited
longest. Those that have never sent a request make room for new ones; those that are idle between
two make room for requests. So a silent client takes no place from another one.
"""

import socket
import time
from collections.abc import Callable
from itertools import islice
from types import TracebackType
from typing import Protocol, TypeVar

import gevent
from gevent.socket import socket as GeventSocket

from ..capacity import PLACES_PER_WAITING
from .bodies.gunicorn_body import raw_socket

# These need no place among the others, and say nothing that only some may know. The monitoring
# port serves nothing else; the port for metrics serves them too.
HEALTH_PATHS = ("/healthz", "/livez", "/readyz")
METRICS_PATH = "/metrics"

# So many may wait however few places there are.
FEWEST_WAITING = 16

# So many connections may have a file that is not counted: they are accepted and not served yet, or
# ended and not closed yet. capacity.py sets files aside for them.
MAX_UNSETTLED = 24

# Of those that have waited longest, so many are looked at before one is accepted.
MAX_LOOKED_AT = 32


T = TypeVar("T")


def min_waiting(places: int) -> int:
    """Return how many connections may wait for a request even if all places are taken."""
    return max(FEWEST_WAITING, places // PLACES_PER_WAITING)


class Waiting(Protocol):
    """A connection that may wait for a request."""

    since: float
    has_sent_request: bool

    def has_request(self) -> bool:
        """Return whether bytes have come that nobody has looked at yet."""

    def end(self) -> None:
        """Close the connection soon, and count it as closed from now on."""


class Connections:
    """The client connections of one worker, hijacked ones included, and its places for them."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._min_waiting = min_waiting(places)
        # Greenlets beyond the places: for those that wait, for health checks, and for refusals.
        self.reserve = 2 * self._min_waiting
        self.hijacked = 0
        self._accepted = self._ending = 0
        self._open: set[Waiting] = set()
        # What waits for its first request, and for a further one; the longest first.
        self._new: dict[Waiting, None] = {}
        self._idle: dict[Waiting, None] = {}

    def __len__(self) -> int:
        return len(self._open) + self.hijacked

    @property
    def waiting_count(self) -> int:
        """How many connections wait for a request."""
        return len(self._new) + len(self._idle)

    @property
    def busy_count(self) -> int:
        """How many have a request; a stream does not count."""
        return len(self._open) - self.waiting_count

    @property
    def is_full(self) -> bool:
        """Whether more connections are busy than there are places."""
        return len(self) - self.waiting_count > self.places

    @property
    def has_waiting(self) -> bool:
        """Whether connections wait for a request."""
        return bool(self._new or self._idle)

    def accept(self, accept: Callable[[], T | None]) -> T | None:
        """Return what `accept` does, or None while there may be no file for one more connection."""
        unsettled = self._accepted + self._ending
        if unsettled >= MAX_UNSETTLED and len(self) + unsettled >= self.places:
            return None
        accepted = accept()
        self._accepted += accepted is not None
        return accepted

    def serve(
        self, client: GeventSocket, serve: Callable[[], None], *, has_sent_request: bool = False
    ) -> None:
        """Count a connection while `serve` serves it in the current greenlet."""
        self._accepted = max(0, self._accepted - 1)
        connection = _Connection(self, client)
        connection.has_sent_request = has_sent_request
        self._open.add(connection)
        gevent.getcurrent().connection = connection  # type: ignore[attr-defined]
        try:
            self._make_room()
            serve()
        finally:
            self.left(connection)
            self._ending -= connection.is_ending
            # Else only the garbage collector could free the two.
            del gevent.getcurrent().connection  # type: ignore[attr-defined]

    def admit(self, connection: Waiting) -> None:
        """Count a connection that waits for its first request, without a greenlet."""
        self._accepted = max(0, self._accepted - 1)
        self._open.add(connection)
        self._make_room()
        self._new[connection] = None

    def expect(self, connection: Waiting) -> None:
        """Count a connection that waits for a further request, without a greenlet."""
        self._open.add(connection)
        self._idle[connection] = None

    def given(self, connection: Waiting) -> None:
        """Count a connection out, for which `serve` is called soon."""
        self.left(connection)
        self._accepted += 1

    def dropped(self) -> None:
        """Count out a connection that was given, and is not served after all."""
        self._accepted -= 1

    def waiting(self) -> "_Connection":
        """Return a context in which the connection of the current greenlet waits for a request."""
        connection: _Connection = gevent.getcurrent().connection  # type: ignore[attr-defined]
        return connection

    def hijack(self) -> Callable[[], None]:
        """Count the current greenlet's connection until the function returned is called."""
        self._open.discard(self.waiting())
        self.hijacked += 1
        return self._release

    def close_idle(self, seconds: float) -> None:
        """Close the connections that have waited for this long."""
        due = time.monotonic() - seconds
        for waiting in (self._new, self._idle):
            for connection in list(waiting):
                if connection.since > due:
                    break
                connection.end()

    def _make_room(self) -> None:
        """Close connections that wait, as many of each kind as are too many beside a new one."""
        others = len(self) - len(self._new) - 1
        spare = max(self._min_waiting, self.places - others)
        self._close_longest(self._new, len(self._new) + 1 - spare)
        self._close_longest(self._idle, others - self.places)

    def _close_longest(self, waiting: dict[Waiting, None], surplus: int) -> None:
        for connection in list(islice(waiting, min(max(0, surplus), MAX_LOOKED_AT))):
            if not connection.has_request():
                connection.end()

    def _release(self) -> None:
        self.hijacked -= 1

    # For a connection

    def began_waiting(self, connection: Waiting) -> None:
        """Note that a connection waits for a request."""
        waiting = self._idle if connection.has_sent_request else self._new
        waiting[connection] = None

    def stopped_waiting(self, connection: Waiting) -> None:
        """Note that a connection waits no more; it may have a request after all."""
        self.left(connection)
        self._open.add(connection)

    def ends(self, connection: "_Connection") -> None:
        """Note that a connection will be closed soon."""
        self.left(connection)
        self._ending += not connection.is_ending

    def left(self, connection: Waiting) -> None:
        """Count a connection out; safe to repeat."""
        self._new.pop(connection, None)
        self._idle.pop(connection, None)
        self._open.discard(connection)


class _Ended(BaseException):
    """A connection is closed while it waits for a request."""


class _Connection:
    """A connection with a greenlet; as a context it waits for the head of a request."""

    __slots__ = (
        "_connections",
        "_greenlet",
        "_is_waiting",
        "_socket",
        "has_sent_request",
        "is_ending",
        "since",
    )

    def __init__(self, connections: Connections, client: GeventSocket) -> None:
        self._connections = connections
        self._socket = client
        self._greenlet = gevent.getcurrent()
        self._is_waiting = False
        self.has_sent_request = self.is_ending = False
        self.since = 0.0

    def __enter__(self) -> None:
        self.since = time.monotonic()
        self._is_waiting = True
        self._connections.began_waiting(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._is_waiting = False
        self.has_sent_request = True
        self._connections.stopped_waiting(self)
        return kind is _Ended

    def has_request(self) -> bool:
        """Return whether bytes have come that nobody has looked at yet."""
        try:
            return bool(raw_socket(self._socket).recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def end(self) -> None:
        """Close the connection soon, and count it as closed from now on."""
        self._connections.ends(self)
        self.is_ending = True
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        if self._is_waiting:  # else its request has come meanwhile
            self._greenlet.throw(_Ended)

"""The client connections of a worker: how many there are, and which of them wait for a request.

When places run short, the connections that have waited longest for a request are closed. So a
silent client takes no place from another one.
"""

import socket
import time
from collections.abc import Callable
from itertools import islice
from types import TracebackType

import gevent
from gevent.socket import socket as GeventSocket

from .body import raw_socket

# So many connections may always wait for a request, so that a new one has time to send its own.
# They may be there beside as many busy ones as there are places.
MIN_WAITING = 16

# Greenlets beyond the places: for those that wait, for health checks, and for refusals.
RESERVE = 2 * MIN_WAITING

# Of those that have waited longest, so many are looked at before one is accepted.
MAX_LOOKED_AT = 32


class Connections:
    """The client connections of one worker, hijacked ones included, and its places for them."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.hijacked = 0
        self._open: set[_Connection] = set()
        self._waiting: dict[_Connection, None] = {}  # since when, the longest first

    def __len__(self) -> int:
        return len(self._open) + self.hijacked

    @property
    def is_full(self) -> bool:
        """Whether more connections are busy than there are places."""
        return len(self) - len(self._waiting) > self.places

    def serve(self, client: GeventSocket, serve: Callable[[], None]) -> None:
        """Count a connection while `serve` serves it in the current greenlet."""
        connection = _Connection(self, client)
        self._open.add(connection)
        gevent.getcurrent().connection = connection  # type: ignore[attr-defined]
        try:
            self._make_room()
            serve()
        finally:
            self.left(connection)

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
        for connection in list(self._waiting):
            if connection.since > due:
                break
            connection.end()

    def _make_room(self) -> None:
        """Close connections that have waited longest, as many as there are too many."""
        surplus = min(len(self) - self.places, len(self._waiting) - MIN_WAITING)
        for connection in list(islice(self._waiting, MAX_LOOKED_AT)) if surplus > 0 else ():
            if not connection.has_request():
                connection.end()
                surplus -= 1
                if not surplus:
                    return

    def _release(self) -> None:
        self.hijacked -= 1

    # For a connection

    def began_waiting(self, connection: "_Connection") -> None:
        """Note that a connection waits for a request."""
        self._waiting[connection] = None

    def stopped_waiting(self, connection: "_Connection") -> None:
        """Note that a connection waits no more; it may have a request after all."""
        self._waiting.pop(connection, None)
        self._open.add(connection)

    def left(self, connection: "_Connection") -> None:
        """Count a connection out; safe to repeat."""
        self._waiting.pop(connection, None)
        self._open.discard(connection)


class _Ended(BaseException):
    """A connection is closed while it waits for a request."""


class _Connection:
    """A connection with a greenlet; as a context it waits for the head of a request."""

    __slots__ = ("_connections", "_greenlet", "_is_waiting", "_socket", "since")

    def __init__(self, connections: Connections, client: GeventSocket) -> None:
        self._connections = connections
        self._socket = client
        self._greenlet = gevent.getcurrent()
        self._is_waiting = False
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
        self._connections.left(self)
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        if self._is_waiting:  # else its request has come meanwhile
            self._greenlet.throw(_Ended)

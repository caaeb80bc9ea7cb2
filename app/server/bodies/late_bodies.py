"""Bodies that get a moment to arrive though too many are arriving: the latest of them have it."""

import socket
import time
from typing import IO, Any

import gevent
from gevent.socket import socket as GeventSocket
from gevent.socket import wait
from gunicorn.http.body import Body, LengthReader

from .gunicorn_body import raw_socket, read_arrived

READ = 1  # what an I/O watcher of gevent waits for


class LateBodies:
    """Waits for late bodies, up to a maximum at once.

    When too many wait, the one that has waited longest is given up. So a client that comes after a
    flood of bodies that never arrive still gets its moment.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._waiting: dict[Any, None] = {}  # watchers of sockets, the oldest first

    def read(self, body: IO[bytes], connection: object, limit: int, seconds: float) -> bytes | None:
        """Return what `read_arrived` does, after waiting up to `seconds` for the body to arrive."""
        if type(connection) is not GeventSocket or not isinstance(body, Body):
            return None
        if not isinstance(body.reader, LengthReader) or body.reader.length > limit:
            return None  # read_arrived will not take it
        deadline = time.monotonic() + seconds
        while (arrived := read_arrived(body, connection, limit)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._is_readable(connection, left):
                return None
        return arrived

    def _is_readable(self, connection: GeventSocket, seconds: float) -> bool:
        """Wait up to `seconds` for bytes; return whether some have arrived."""
        hub = gevent.get_hub()
        if len(self._waiting) >= self._maximum:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            hub.cancel_wait(oldest, TimeoutError())
        watcher = hub.loop.io(connection.fileno(), READ)
        self._waiting[watcher] = None
        try:
            wait(watcher, seconds)
            return bool(raw_socket(connection).recv(1, socket.MSG_PEEK))
        except OSError:  # a timeout, or the client is gone
            return False
        finally:
            self._waiting.pop(watcher, None)
            watcher.close()

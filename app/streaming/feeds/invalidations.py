"""The connection over which a node tells which keys have changed (client-side caching in RESP2).

A key that was read over a tracking connection is told once: when it changes, goes or expires.
A connection that dies says nothing. So it is pinged, and what follows it reads all keys again.
"""

import threading
from collections.abc import Callable

import hiredis

from ..errors import StoreUnavailable
from ..redis.connection import RedisConnection, checked, exchange, pack, translated_errors
from ..redis.server import Server

CHANNEL = "__redis__:invalidate"

# After so long without a word the node is pinged, and after as long again it counts as gone.
SILENCE_SECONDS = 1.0
RECEIVE_BYTES = 65536

_PING = pack(("PING",))


class Invalidations:
    """Two connections: one to read keys with, and one that tells which of them have changed.

    Attributes:
        link: the connection to read with.
        is_broken: whether keys may have changed without being told.
    """

    def __init__(self, server: Server, told: Callable[[list[bytes] | None], None]):
        """Connect. `told` gets the keys that have changed, or None for all; [] when it breaks.

        Raises StoreUnavailable.
        """
        self._told = told
        self.is_broken = False
        with translated_errors():
            self._telling = server.connect(SILENCE_SECONDS)
            self.link = server.connect()
            try:
                self._connect()
            except BaseException:
                self.close()
                raise
        threading.Thread(target=self._listen, name="tailrace-invalidations", daemon=True).start()

    def close(self) -> None:
        """Close both connections."""
        self.is_broken = True
        self._telling.disconnect()
        self.link.disconnect()

    def _connect(self) -> None:
        self._telling.connect()
        [client_id] = exchange(self._telling, ("CLIENT", "ID"))
        checked(exchange(self._telling, ("SUBSCRIBE", CHANNEL))[0])
        self.link.connect()
        tracking = "CLIENT", "TRACKING", "ON", "REDIRECT", checked(client_id)
        checked(exchange(self.link, tracking)[0])

    def _listen(self) -> None:
        try:
            _listen(self._telling, self._told)
        except (OSError, StoreUnavailable, hiredis.HiredisError):
            pass
        finally:
            self.is_broken = True
            self._told([])


def _listen(link: RedisConnection, told: Callable[[list[bytes] | None], None]) -> None:
    """Tell what comes, until the connection ends."""
    replies, was_pinged = hiredis.Reader(), False
    while (connected := link._sock) is not None:
        try:
            received = connected.recv(RECEIVE_BYTES)
        except TimeoutError:
            if was_pinged:
                return
            was_pinged = True
            connected.sendall(_PING)
            continue
        if not received:
            return
        was_pinged = False
        replies.feed(received)
        while (reply := replies.gets()) is not False:
            if reply[0] == b"message":
                told(reply[2])

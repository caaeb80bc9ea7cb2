"""The connection over which a node tells which keys have changed (client-side caching in RESP2).

A key that was read over a tracking connection is told once: when it changes, goes or expires.
A connection that dies says nothing. So it is pinged, and what follows it reads all keys again.
"""

import socket
import ssl
import time
from contextlib import suppress

import hiredis
from redis.exceptions import ResponseError

from ..errors import StoreUnavailable
from ..redis.connection import (
    checked,
    exchange,
    has_nothing_to_read,
    pack,
    translated_errors,
)
from ..redis.readable import wait_readable
from ..redis.server import Server

CHANNEL = "__redis__:invalidate"

# After so long without a word the node is pinged, and after as long again it counts as gone.
SILENCE_SECONDS = 1.0
RECEIVE_BYTES = 65536

_PING = pack(("PING",))


class Invalidations:
    """Two connections: one to read keys with, and one that tells which of them have changed.

    One thread reads over both: a second one that listens would cost it a switch for each change.

    Attributes:
        link: the connection to read with.
    """

    def __init__(self, server: Server):
        """Connect. Raises StoreUnavailable."""
        with translated_errors():
            self._telling = server.connect(SILENCE_SECONDS)
            self.link = server.connect()
            try:
                self._connect()
            except BaseException:
                self.close()
                raise
        self._replies = hiredis.Reader(replyError=ResponseError)
        self._word = time.monotonic()  # when the node last said something, or was pinged
        self._is_pinged = False
        self._is_waiting = self._is_interrupted = False

    def close(self) -> None:
        """Close both connections."""
        self._telling.disconnect()
        self.link.disconnect()

    def wait(self, seconds: float) -> list[bytes] | None:
        """Wait until keys have changed, at most so long; return the keys, or None for all.

        It may return [] earlier. Raises StoreUnavailable when changes may not be told any more.
        """
        self._is_waiting = True
        due = self._word + SILENCE_SECONDS
        # Whoever interrupts after this sees that it waits.
        longest = 0.0 if self._is_interrupted else min(seconds, due - time.monotonic())
        try:
            with translated_errors():
                received = self._receive(max(0.0, longest))
                if received is None and time.monotonic() >= due:
                    self._ping()
        finally:
            self._is_waiting = self._is_interrupted = False
        return [] if received is None else self._told(received)

    def interrupt(self) -> None:
        """Have `wait` return soon, from any thread; or the next one, if none is in progress."""
        self._is_interrupted = True
        if self._is_waiting:
            self._is_waiting = False
            # If it cannot be sent, `wait` returns when the node has been silent for too long.
            with suppress(OSError):
                if (connected := self._telling._sock) is not None:
                    connected.sendall(_PING)

    def _connect(self) -> None:
        self._telling.connect()
        [client_id] = exchange(self._telling, ("CLIENT", "ID"))
        checked(exchange(self._telling, ("SUBSCRIBE", CHANNEL))[0])
        self.link.connect()
        tracking = "CLIENT", "TRACKING", "ON", "REDIRECT", checked(client_id)
        checked(exchange(self.link, tracking)[0])

    def _receive(self, seconds: float) -> bytes | None:
        """Return what comes within so long, or None."""
        connected = self._socket()
        connected.settimeout(seconds)
        try:
            if seconds:
                wait_readable(connected)
            return connected.recv(RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return None

    def _ping(self) -> None:
        """Ask whether the node is there. It does not say so if it has closed the other one."""
        if not has_nothing_to_read(self.link):
            raise StoreUnavailable("the connection to read with has ended")
        if self._is_pinged:
            raise StoreUnavailable("it does not say what has changed")
        self._is_pinged, self._word = True, time.monotonic()
        connected = self._socket()
        connected.settimeout(SILENCE_SECONDS)
        connected.sendall(_PING)

    def _told(self, received: bytes) -> list[bytes] | None:
        if not received:
            raise StoreUnavailable("the connection has ended")
        self._is_pinged, self._word = False, time.monotonic()
        told: list[bytes] = []
        is_all = False
        try:
            self._replies.feed(received)
            while (reply := self._replies.gets()) is not False:
                match checked(reply):
                    case [b"message", _, None]:
                        is_all = True
                    case [b"message", _, keys]:
                        told += keys
        except hiredis.HiredisError as error:
            raise StoreUnavailable(f"what it says cannot be read: {error}") from error
        return None if is_all else told

    def _socket(self) -> socket.socket:
        connected = self._telling._sock
        if connected is None:
            raise StoreUnavailable("the connection was closed")
        return connected

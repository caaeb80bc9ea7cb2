"""The client_socket: a client's connection taken over from the server, written to without blocking.

A stream that waits then costs a socket, and no greenlet with its stack.
"""

import _socket
import contextlib
import socket
from collections.abc import Callable

import gevent
from gevent.socket import socket as GeventSocket

READABLE, WRITABLE = 1, 2

# So long may a client take not a byte of what is waiting for it.
STALLED_SECONDS = 30.0


class ClientGone(Exception):
    """The client has closed or reset its connection."""


class ClientStalled(Exception):
    """The client has not read for too long."""


class ClientSocket:
    """The one owner of a client's connection, for a body in chunks or one as it is.

    Its socket object is the only one that knows the descriptor: once it is closed a write
    fails, and never reaches whoever was given the same descriptor afterwards. `send` is the
    socket's, and raises BlockingIOError rather than wait.
    """

    __slots__ = ("_gone", "_reading", "_socket", "_writing", "chunked", "send")

    def __init__(self, connection: GeventSocket, chunked: bool):
        self._socket = _socket.socket(fileno=connection.detach())
        self._socket.setblocking(False)
        self.send = self._socket.send
        self.chunked = chunked
        self._gone: Callable[[], None] | None = None
        self._reading = None
        self._writing = None

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` once, from the hub, when the client closes or resets the connection."""
        self._gone = gone
        self._reading = gevent.get_hub().loop.io(self._socket.fileno(), READABLE)
        self._reading.start(self._peek)

    def send_all(self, wire: bytes | memoryview) -> None:
        """Write all of some http_chunk bytes, waiting for the client where it is slow."""
        left = memoryview(wire)
        while left:
            try:
                left = left[self.send(left) :]
            except BlockingIOError:
                self._wait_until_writable()
            except OSError:
                raise ClientGone from None

    def finish(self) -> None:
        """End the body and close; raises as `send_all` does."""
        if self.chunked:
            self.send_all(b"0\r\n\r\n")
        with contextlib.suppress(OSError):  # the client was faster
            self._socket.shutdown(socket.SHUT_WR)
        self.close()

    def cut(self) -> None:
        """Have a write that waits for the client fail at once."""
        gevent.get_hub().cancel_wait(self._writing, ClientGone())

    def close(self) -> None:
        """Give the connection up; safe to repeat."""
        self._stop_looking()
        self._socket.close()

    def _peek(self) -> None:
        try:
            peeked = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            peeked = b""
        # A pipelined request would keep the socket readable for ever: no more looking.
        self._stop_looking()
        if not peeked:
            gevent.get_hub().cancel_wait(self._writing, ClientGone())
            self._gone()

    def _stop_looking(self) -> None:
        if self._reading is not None:
            self._reading.stop()
            self._reading.close()
            self._reading = None

    def _wait_until_writable(self) -> None:
        hub = gevent.get_hub()
        self._writing = hub.loop.io(self._socket.fileno(), WRITABLE)
        try:
            with gevent.Timeout(STALLED_SECONDS, ClientStalled):
                hub.wait(self._writing)
        finally:
            self._writing.close()
            self._writing = None

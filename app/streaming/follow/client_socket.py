"""The client's socket: taken from the server, written to without blocking, owned by one object.

A waiting stream then costs a socket, and no greenlet with its stack.
"""

import _socket
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.socket import socket as GeventSocket

if TYPE_CHECKING:
    from gevent._types import _IoWatcher

# The events that a watcher of gevent's loop waits for.
READABLE, WRITABLE = 1, 2

# A client that reads nothing of what waits for it for this long is disconnected.
STALLED_SECONDS = 30.0


class ClientGone(Exception):
    """The client has closed or reset its connection."""


class ClientStalled(Exception):
    """The client has read nothing for STALLED_SECONDS."""


class ClientSocket:
    """The one owner of a client's connection; the body is sent in chunks if `chunked`.

    No other socket object knows the descriptor. After `close` a write therefore fails; it never
    reaches another client that was given the same descriptor.

    `send` is the socket's own method. It returns how many bytes the socket took, and raises
    BlockingIOError where it would have to wait.
    """

    __slots__ = ("_on_gone", "_readable", "_socket", "_writable", "chunked", "send")

    def __init__(self, connection: GeventSocket, chunked: bool):
        self._socket = _socket.socket(fileno=connection.detach())
        self._socket.setblocking(False)
        self.send = self._socket.send
        self.chunked = chunked
        self._on_gone: Callable[[], None] | None = None
        self._readable: _IoWatcher | None = None
        self._writable: _IoWatcher | None = None

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once, from the hub, when the client closes or resets the connection."""
        self._on_gone = on_gone
        self._readable = gevent.get_hub().loop.io(self._socket.fileno(), READABLE)
        self._readable.start(self._peek)

    def send_all(self, chunk: bytes | memoryview) -> None:
        """Write all bytes, and wait for the client where it is slow.

        Raises ClientGone and ClientStalled.
        """
        unsent = memoryview(chunk)
        while unsent:
            try:
                unsent = unsent[self.send(unsent) :]
            except BlockingIOError:
                self._wait_until_writable()
            except OSError:
                raise ClientGone from None

    def finish(self) -> None:
        """End the body and close the connection; raises as `send_all` does."""
        if self.chunked:
            self.send_all(b"0\r\n\r\n")
        with contextlib.suppress(OSError):  # the client has closed the connection first
            self._socket.shutdown(socket.SHUT_WR)
        self.close()

    def cut(self) -> None:
        """Make a write that waits for the client fail at once."""
        if self._writable is not None:
            gevent.get_hub().cancel_wait(self._writable, ClientGone())

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        self._stop_watching()
        self._socket.close()

    def _peek(self) -> None:
        try:
            peeked = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            peeked = b""
        # A pipelined request would keep the socket readable for ever, so watching ends here.
        self._stop_watching()
        if not peeked:
            self.cut()
            if self._on_gone is not None:
                self._on_gone()

    def _stop_watching(self) -> None:
        if self._readable is not None:
            self._readable.stop()
            self._readable.close()
            self._readable = None

    def _wait_until_writable(self) -> None:
        hub = gevent.get_hub()
        watcher = self._writable = hub.loop.io(self._socket.fileno(), WRITABLE)
        try:
            with gevent.Timeout(STALLED_SECONDS, ClientStalled):
                hub.wait(watcher)
        finally:
            watcher.close()
            self._writable = None

"""The client's socket: taken from the server, written to without blocking, owned by one object.

A waiting stream then costs a socket, and no greenlet with its stack.
"""

import _socket
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import gevent
from gevent.socket import socket as GeventSocket

if TYPE_CHECKING:
    from gevent._types import _IoWatcher

# The events that a watcher of gevent's loop waits for.
READABLE, WRITABLE = 1, 2

# The operating system takes no more for a client before what it has is on its way. Without a
# limit it holds up to 4 MB for each client that reads nothing.
MAX_UNSENT_BYTES = 256 * 1024

# The value of SO_LINGER with which the end of a connection is a reset.
_RESET = struct.pack("ii", 1, 0)

# How many bytes the clients of a worker may leave unsent, all together.
MAX_BACKLOG_BYTES = 64 * 1024 * 1024

# A client that reads nothing of what waits for it for this long is disconnected.
STALLED_SECONDS = 30.0


class ClientGone(Exception):
    """The client has closed or reset its connection."""


class ClientStalled(Exception):
    """The client has read nothing for STALLED_SECONDS, or too much waits for clients."""


class Backlog:
    """What the clients of a worker have not taken yet; all of it together is bounded.

    Clients that wait for the same bytes hold them together. Where there is too much, those who
    wait for the bytes that have waited longest are disconnected. They can resume.
    """

    def __init__(self, max_bytes: int = MAX_BACKLOG_BYTES):
        self._max_bytes = max_bytes
        self._waiting: dict[int, tuple[bytes, set[ClientSocket]]] = {}
        self._bytes = 0

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._bytes

    @contextlib.contextmanager
    def holding(self, unsent: memoryview, client_socket: "ClientSocket") -> Iterator[None]:
        """Count the chunk of the unsent bytes as held while a client takes them."""
        chunk = unsent.obj
        assert isinstance(chunk, bytes)
        if id(chunk) not in self._waiting:
            self._waiting[id(chunk)] = chunk, set()
            self._bytes += len(chunk)
        self._waiting[id(chunk)][1].add(client_socket)
        while self._bytes > self._max_bytes and len(self._waiting) > 1:
            self._cut_longest()
        try:
            yield
        finally:
            self._release(chunk, client_socket)

    def _cut_longest(self) -> None:
        chunk, sockets = self._waiting.pop(next(iter(self._waiting)))
        self._bytes -= len(chunk)
        for each in sockets:
            each.cut(ClientStalled())

    def _release(self, chunk: bytes, client_socket: "ClientSocket") -> None:
        if id(chunk) not in self._waiting:
            return  # the client was disconnected
        sockets = self._waiting[id(chunk)][1]
        sockets.discard(client_socket)
        if not sockets:
            del self._waiting[id(chunk)]
            self._bytes -= len(chunk)


class ClientSocket:
    """The one owner of a client's connection; the body is sent in chunks if `chunked`.

    No other socket object knows the descriptor. After `close` a write therefore fails; it never
    reaches another client that was given the same descriptor.

    `send` is the socket's own method. It returns how many bytes the socket took, and raises
    BlockingIOError where it would have to wait.
    """

    __slots__ = ("_on_closed", "_on_gone", "_readable", "_socket", "_writable", "chunked", "send")

    def __init__(
        self,
        connection: GeventSocket,
        chunked: bool,
        on_closed: Callable[[], None] | None = None,
    ):
        """`on_closed` is called once, when the connection is closed."""
        self._socket = _socket.socket(fileno=connection.detach())
        self._socket.setblocking(False)
        if self._socket.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES
                )
        self.send = self._socket.send
        self.chunked = chunked
        self._on_closed = on_closed
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
        while unsent := self.send_now(chunk):
            self._wait_until_writable()
            chunk = unsent

    def send_now(self, chunk: bytes | memoryview) -> memoryview:
        """Write what the socket takes without waiting, and return the rest; raises ClientGone."""
        unsent = memoryview(chunk)
        try:
            while unsent:
                unsent = unsent[self.send(unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            raise ClientGone from None
        return unsent

    def finish(self) -> None:
        """End the body and close the connection; raises as `send_all` does."""
        if self.chunked:
            self.send_all(b"0\r\n\r\n")
        with contextlib.suppress(OSError):  # the client has closed the connection first
            self._socket.shutdown(socket.SHUT_WR)
        self.close()

    def cut(self, error: Exception | None = None) -> None:
        """Make a write that waits for the client fail at once, with ClientGone or an error."""
        if self._writable is not None:
            gevent.get_hub().cancel_wait(self._writable, error or ClientGone())

    def cut_off(self) -> None:
        """Close the connection so that its client knows that the body is not complete."""
        if not self.chunked:  # it has no other end than that of the connection (RFC 9112, 6.3)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        self._stop_watching()
        self._socket.close()
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()

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

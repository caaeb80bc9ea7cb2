"""Connections between two requests: watched without a greenlet each, and read together.

A request that a handler knows, once it is whole, is answered by the handler together with all
others that have come meanwhile. For every other one its connection goes to gunicorn, with all that
was read of it, and comes back afterwards.
"""

import _socket
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gevent
from gevent.event import Event

from ..streaming.follow import client_socket
from ..streaming.follow.client_socket import READABLE, WRITABLE
from .connections import Connections

# A longer head, or body, goes to gunicorn: there, large bodies do not wait for one another.
MAX_HEAD_BYTES = 2048
MAX_BODY_BYTES = 16 * 1024

# A request that is not whole, or not taken up, after this long goes to gunicorn: it has limits for
# slow clients, and there requests do not wait for one another while Redis is slow. Many clients
# send the body right after the head, in a packet of its own.
PATIENCE_SECONDS = 0.25
CHECK_SECONDS = 0.1

# At most this many requests wait here for the rest of their bodies. When one more comes, the oldest
# goes to gunicorn, which limits slow bodies: a flood of them must not take the places of others.
MAX_INCOMPLETE = 32

# About what the handler takes at once.
ROUND_REQUESTS = 128
ROUND_BYTES = 512 * 1024

# Where requests are spread over several lanes, few are in each, and each round costs as much as a
# large one. So a lane waits for as many as were answered in its last round, or had come by its end:
# those who were just answered are about to come again. It waits no longer than this, and not at all
# so long after a round: then whoever comes has come alone.
GATHER_SECONDS = 0.001
ALONE_SECONDS = 0.01
# It waits for no more than this: more in one round makes each hardly cheaper.
ENOUGH_REQUESTS = 8

# A lane that was not used for so long is forgotten when another one begins: nodes come and go.
UNUSED_SECONDS = 60.0

# The bodies that may wait to be taken up; more goes to gunicorn, where they are refused.
MAX_DUE_BYTES = 16 * 1024 * 1024

END_OF_HEAD = b"\r\n\r\n"

log = logging.getLogger("tailrace.http")


class Head(Protocol):
    """The head of a request that a handler answers."""

    @property
    def length(self) -> int:
        """The number of bytes of the body."""


class Handler(Protocol):
    """Answers requests of some form."""

    begins: bytes  # how the head of each of its requests begins

    def head_of(self, head: bytes) -> Head | None:
        """Return the head of a request, or None if its form is not that of the handler."""

    def lane_of(self, head: Any) -> str:
        """Return the lane of a request. No lane waits for another one."""

    def handle(self, requests: "Sequence[KeptConnection]") -> None:
        """Call `answer` or `give_up` of each: its head and its body are there.

        They are of one lane.
        """


class KeptConnection:
    """A client's connection, and its request while one is handled."""

    __slots__ = (
        "_end",
        "_kept",
        "_sending",
        "address",
        "body",
        "buffer",
        "closes",
        "has_sent_request",
        "head",
        "is_handled",
        "lane",
        "server",
        "since",
        "socket",
        "unsent",
        "watcher",
    )

    head: Any
    body: bytes

    def __init__(
        self, kept: "KeptAlive", server: Any, client: _socket.socket, address: Any, watcher: Any
    ) -> None:
        self._kept = kept
        self._end = 0
        self._sending: Any = None
        self.server = server
        self.socket = client
        self.address = address
        self.watcher = watcher
        self.buffer = b""
        self.unsent = memoryview(b"")
        self.lane: _Lane | None = None
        self.since = time.monotonic()
        self.has_sent_request = self.is_handled = self.closes = False

    # For the handler

    def answer(self, response: bytes, closes: bool = False) -> None:
        """Send the response to the request, and close the connection or wait for a further one."""
        self.closes = closes
        self.buffer = self.buffer[self._end :]
        self.forget()
        self._send(memoryview(response))

    def give_up(self) -> None:
        """Leave the request to gunicorn; nothing was done for it."""
        self._kept.give(self)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._kept.close(self)

    # For `Connections`

    def has_request(self) -> bool:
        """Return whether bytes have come that nobody has looked at yet."""
        try:
            return bool(self.socket.recv(1, _socket.MSG_PEEK))
        except OSError:
            return False

    def end(self) -> None:
        """Close the connection."""
        self._kept.close(self)

    # For `KeptAlive`

    def forget(self) -> None:
        """Free the request: the next one may be long in coming."""
        self.head, self.body = None, b""
        self.is_handled = False

    def take_request(self, head: Head, begin: int) -> None:
        """Make what stands at the beginning of the buffer the request."""
        self._end = begin + head.length
        self.head, self.body = head, self.buffer[begin : self._end]
        self.is_handled = self.has_sent_request = True

    def stop_watching(self) -> None:
        for watcher in (self.watcher, self._sending):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self.watcher = self._sending = None

    def _send(self, unsent: memoryview) -> None:
        try:
            sent = self.socket.send(unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # the client is gone
            self._kept.close(self)
            return
        self.unsent = unsent[sent:]
        if not self.unsent:
            self._kept.sent(self)
            return
        self.since = time.monotonic()
        if self._sending is None:
            self._sending = gevent.get_hub().loop.io(self.socket.fileno(), WRITABLE)
            self._sending.start(self._go_on_sending)

    def _go_on_sending(self) -> None:
        self._send(self.unsent)
        if not self.unsent and self._sending is not None:
            self._sending.stop()
            self._sending.close()
            self._sending = None


class _Lane:
    """Requests that are handled in rounds, one round after the other; the oldest first.

    Attributes:
        due: the requests that wait for a round.
        expected: how many were handled or had come at the end of the last round.
        ended: when that was, a monotonic time.
        wanted: so many must be due for `awake` to be set.
        is_busy: whether a round is in progress.
        is_over: whether nothing comes any more.
    """

    __slots__ = ("awake", "due", "ended", "expected", "is_busy", "is_over", "wanted")

    def __init__(self) -> None:
        self.due: dict[KeptConnection, None] = {}
        self.expected = self.wanted = 1
        self.ended = time.monotonic()
        self.is_busy = self.is_over = False
        self.awake = Event()

    def add(self, connection: KeptConnection) -> None:
        """Have a request handled."""
        self.due[connection] = None
        if len(self.due) >= self.wanted:
            self.awake.set()

    def wait(self) -> None:
        """Wait until a request is due, or nothing comes any more."""
        while not self.due and not self.is_over:
            self.awake.clear()
            self.awake.wait()

    def end_if_unused(self) -> bool:
        """End the lane if it was not used for long; return whether it has ended."""
        is_used = self.due or self.is_busy or self.ended + UNUSED_SECONDS > time.monotonic()
        if not is_used:
            self.is_over = True
            self.awake.set()
        return self.is_over

    def gather(self) -> None:
        """Wait for as many requests as are expected, but not for long."""
        is_alone = time.monotonic() > self.ended + ALONE_SECONDS
        wanted = min(self.expected, ENOUGH_REQUESTS)
        if is_alone or len(self.due) >= wanted:
            return
        self.wanted = wanted
        self.awake.clear()
        try:
            self.awake.wait(GATHER_SECONDS)
        finally:
            self.wanted = 1


class KeptAlive:
    """The connections of a worker that wait for a request, or whose request the handler has."""

    def __init__(
        self, connections: Connections, handler: Handler, give: Callable[[KeptConnection], None]
    ) -> None:
        """`give` has gunicorn serve a connection whose buffer it must not read again."""
        self._connections = connections
        self._handler = handler
        self._give = give
        self._loop = gevent.get_hub().loop
        self._lanes: dict[str, _Lane] = {}  # the requests that are whole
        self._due_bytes = 0
        # The times at which requests began to wait for their rest or to be taken up; the oldest
        # first.
        self._incomplete: dict[KeptConnection, None] = {}  # a part of the body is missing
        self._waiting: dict[KeptConnection, float] = {}
        self._check: Any = self._loop.timer(CHECK_SECONDS, CHECK_SECONDS)
        self._busy: set[KeptConnection] = set()
        self._is_stopped = False

    @property
    def is_busy(self) -> bool:
        """Whether a body is arriving, or a request is handled, or its response is not sent yet."""
        return bool(self._busy or self._incomplete)

    def add(
        self, server: Any, client: _socket.socket, address: Any, *, has_sent_request: bool = False
    ) -> None:
        """Watch a connection from now on, and close it at its end."""
        client.setblocking(False)
        watcher = self._loop.io(client.fileno(), READABLE)
        connection = KeptConnection(self, server, client, address, watcher)
        watcher.start(self._readable, connection)
        if has_sent_request:
            connection.has_sent_request = True
            self._connections.expect(connection)
        else:
            self._connections.admit(connection)
            self._readable(connection)  # usually its request is there

    def stop(self) -> None:
        """Give every request that comes from now on to gunicorn."""
        self._is_stopped = True

    def close_stalled(self) -> None:
        """Close connections whose clients have read nothing for too long."""
        due = time.monotonic() - client_socket.STALLED_SECONDS
        for connection in [each for each in self._busy if each.unsent and each.since < due]:
            self.close(connection)

    # For a connection

    def sent(self, connection: KeptConnection) -> None:
        """Note that the response was sent as a whole."""
        self._busy.discard(connection)
        if connection.closes:
            self.close(connection)
            return
        connection.since = time.monotonic()
        self._connections.began_waiting(connection)
        if not connection.watcher.active:
            connection.watcher.start(self._readable, connection)
        if connection.buffer:
            self._look(connection)

    def give(self, connection: KeptConnection) -> None:
        """Give a connection to gunicorn, with all that was read of it."""
        self._leave(connection)
        self._connections.given(connection)
        self._give(connection)

    def close(self, connection: KeptConnection) -> None:
        """Close a connection; safe to repeat."""
        self._leave(connection)
        connection.socket.close()

    def _leave(self, connection: KeptConnection) -> None:
        connection.stop_watching()
        connection.unsent = memoryview(b"")
        self._waiting.pop(connection, None)
        self._incomplete.pop(connection, None)
        self._take_up(connection)
        self._busy.discard(connection)
        connection.is_handled = False
        self._connections.left(connection)

    # Reading

    def _readable(self, connection: KeptConnection) -> None:
        if connection in self._busy:  # its next request has time
            connection.watcher.stop()
            return
        try:
            received = connection.socket.recv(MAX_HEAD_BYTES + MAX_BODY_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the client is gone
            self.close(connection)
            return
        if received:
            connection.buffer += received
            self._look(connection)
        elif connection.buffer:
            self.give(connection)
        else:
            self.close(connection)

    def _look(self, connection: KeptConnection) -> None:
        """Have the request handled, wait for the rest of it, or give it to gunicorn."""
        if self._is_stopped or self._connections.is_full or self._due_bytes > MAX_DUE_BYTES:
            self.give(connection)
            return
        buffer, begins = connection.buffer, self._handler.begins
        begin = buffer.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
        if begin < len(END_OF_HEAD):
            if begins.startswith(buffer[: len(begins)]) and len(buffer) < MAX_HEAD_BYTES:
                self._wait(connection)
            else:
                self.give(connection)
            return
        head = self._handler.head_of(buffer[:begin])
        if head is None or head.length > MAX_BODY_BYTES:
            self.give(connection)
            return
        self._connections.stopped_waiting(connection)
        self._wait(connection)
        if len(buffer) < begin + head.length:
            self._incomplete[connection] = None
            if len(self._incomplete) > MAX_INCOMPLETE:
                self.give(next(iter(self._incomplete)))
        else:
            self._incomplete.pop(connection, None)
            connection.take_request(head, begin)
            self._busy.add(connection)
            lane = connection.lane = self._lane(self._handler.lane_of(head))
            self._due_bytes += head.length
            lane.add(connection)

    def _wait(self, connection: KeptConnection) -> None:
        """Give the connection to gunicorn if nothing more happens in time."""
        self._waiting.setdefault(connection, time.monotonic())
        if not self._check.active:
            self._check.start(self._give_late)

    def _give_late(self) -> None:
        due = time.monotonic() - PATIENCE_SECONDS
        for connection, since in list(self._waiting.items()):
            if since > due:
                return
            self.give(connection)
        self._check.stop()

    # Handling

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            for each in [each for each, lane in self._lanes.items() if lane.end_if_unused()]:
                del self._lanes[each]
            lane = self._lanes[name] = _Lane()
            gevent.spawn(self._run, lane)
        return lane

    def _run(self, lane: _Lane) -> None:
        while not lane.is_over:
            lane.wait()
            if len(self._lanes) > 1:
                lane.gather()
            if not lane.due:  # gunicorn got it, or its client is gone
                continue
            requests = self._next_round(lane)
            lane.is_busy = True
            try:
                self._handler.handle(requests)
            except Exception:
                log.exception("unexpected error in plain requests")
                for connection in requests:
                    if connection.is_handled:  # whether it was carried out is not known
                        self.close(connection)
            lane.ended, lane.is_busy = time.monotonic(), False
            lane.expected = min(len(requests) + len(lane.due), ROUND_REQUESTS)
            if lane.due:
                gevent.sleep(0)

    def _next_round(self, lane: _Lane) -> list[KeptConnection]:
        requests: list[KeptConnection] = []
        size = 0
        while lane.due and len(requests) < ROUND_REQUESTS and size < ROUND_BYTES:
            connection = next(iter(lane.due))
            self._take_up(connection)
            del self._waiting[connection]
            requests.append(connection)
            size += len(connection.body)
        return requests

    def _take_up(self, connection: KeptConnection) -> None:
        """Take a request from those that are due, if it is among them."""
        if connection.lane is not None and connection in connection.lane.due:
            del connection.lane.due[connection]
            self._due_bytes -= connection.head.length

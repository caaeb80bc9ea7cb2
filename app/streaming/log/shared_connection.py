"""One connection that concurrent callers share: group commit for appends.

A caller that comes while no other caller is sending becomes the leader. It sends at once what
waits, its own command first, and reads the replies. Then it appoints the first of the callers
that came meanwhile. So a single caller waits for nobody, needs no other thread, and pays for no
pool.
"""

import _socket
import contextlib
import math
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from redis.exceptions import RedisError

from ..errors import StoreUnavailable
from ..reentrancy import one_call_per_thread
from .connection import (
    Argument,
    Command,
    RedisConnection,
    Reply,
    exchange_packed,
    is_not_master,
    pack,
)
from .sentinel import leads_to_master

# One round trip carries no more than this, so that no caller waits long for others' bytes.
MAX_COMMANDS = 256
MAX_BYTES = 1024 * 1024

# If a reply comes so many seconds late, Redis was out of reach, for its producers too.
MAX_REPLY_DELAY_SECONDS = 1.0

# Without these, Python asks the operating system what kind of socket a descriptor is.
_ANY_STREAM = {"family": socket.AF_INET, "type": socket.SOCK_STREAM, "proto": 0}


class SharedConnection:
    """Sends the commands of all callers over one connection, in the order in which they came.

    `connect` makes the connection, not yet connected. No command is ever sent twice.
    `connected_since` is a monotonic time in seconds, and infinite while there is no connection.
    """

    def __init__(self, connect: Callable[[], RedisConnection]):
        self._connect = connect
        self._reset()
        # A forked child must not use the connection of its parent, nor wait for the parent's
        # threads.
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def call(self, *command: Argument) -> Reply:
        """Send one command and return its raw reply, an error reply as a value.

        Raises StoreUnavailable, whose `stored` says whether Redis may have executed the
        command, and ReentrantCall in a signal handler that has interrupted a call.
        """
        return self.call_all(command)[0]

    def call_all(self, *commands: Command) -> list[Reply]:
        """Send commands together and return their raw replies. Raises what `call` raises."""
        thread = one_call_per_thread.check()
        request = _Request(pack(*commands), len(commands))
        try:
            one_call_per_thread.enter(thread)
            self._wait_or_lead(request)
        except BaseException:  # KeyboardInterrupt, or a greenlet is killed
            self._withdraw(request)
            raise
        finally:
            one_call_per_thread.leave(thread)
        if request.error is not None:
            raise _unavailable(request.error, request.stored) from None
        return request.replies

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._has_leader = False
        self._link: RedisConnection | None = None
        self.connected_since = math.inf

    def _wait_or_lead(self, request: "_Request") -> None:
        answered = None
        with self._lock:
            if self._has_leader:
                answered = request.wake = threading.Event()
            self._waiting.append(request)
            if answered is None:
                request.is_leader = self._has_leader = True
        if answered is not None:
            answered.wait()
        if request.is_leader:
            self._lead(request)

    def _withdraw(self, request: "_Request") -> None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._waiting.remove(request)
            if request.is_leader:
                self._appoint_next_leader(request)

    def _lead(self, request: "_Request") -> None:
        """Carry out one batch of what waits, and appoint the next leader."""
        batch: list[_Request] = []
        try:
            self._take_batch(batch)
            self._carry_out(batch)
        except (RedisError, OSError) as error:
            with self._lock:
                late = list(self._waiting)  # not sent yet, and would fail after another timeout
                self._waiting.clear()
            for each in late:
                each.error = error
            batch += late
        finally:
            with self._lock:
                self._appoint_next_leader(request)
            for each in batch:
                if each.wake is not None:
                    each.wake.set()

    def _take_batch(self, batch: list["_Request"]) -> None:
        commands = size = 0
        with self._lock:
            while self._waiting and commands < MAX_COMMANDS and size < MAX_BYTES:
                batch.append(request := self._waiting.popleft())
                commands += request.commands
                size += len(request.packed)

    def _carry_out(self, batch: list["_Request"]) -> None:
        sent = False
        try:
            link = self._ensure_connected()
            sent = True
            packed, began = b"".join([request.packed for request in batch]), time.monotonic()
            replies = exchange_packed(link, packed, sum([request.commands for request in batch]))
            if time.monotonic() - began > MAX_REPLY_DELAY_SECONDS:
                self.connected_since = time.monotonic()
            if any(map(is_not_master, replies)):  # the next connection may lead to the master
                self._disconnect()
            first = 0
            for request in batch:
                request.replies = replies[first : first + request.commands]
                first += request.commands
        except BaseException as error:
            for request in batch:
                request.error, request.stored = error, None if sent else False
            self._disconnect()
            raise

    def _appoint_next_leader(self, request: "_Request") -> None:
        if self._waiting and self._waiting[0] is request:
            self._waiting.popleft()
        successor = self._waiting[0] if self._waiting else None
        # Nothing is called between these steps, so no KeyboardInterrupt can come between them.
        self._has_leader = successor is not None
        request.is_leader = False
        if successor is not None:
            successor.is_leader = True
            if successor.wake is not None:  # which each request has that waits
                successor.wake.set()

    def _ensure_connected(self) -> RedisConnection:
        """Connect, unless there is a connection that Redis has not closed meanwhile."""
        link = self._link
        if link is not None and leads_to_master(link) and _has_nothing_to_read(link):
            return link
        self._disconnect()
        link = self._connect()
        link.connect()
        self._link = link
        self.connected_since = time.monotonic()
        return link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.disconnect()
            self._link = None
            self.connected_since = math.inf


def _unavailable(error: BaseException, stored: bool | None) -> StoreUnavailable:
    if isinstance(error, RedisError | OSError):
        return StoreUnavailable(f"Redis does not answer: {error}", stored)
    return StoreUnavailable("the thread that was sending this command was interrupted", stored)


def _has_nothing_to_read(link: RedisConnection) -> bool:
    """Return False if something came unasked: the end of the connection, or a late reply."""
    connected = link._sock
    if not isinstance(connected, socket.socket):
        return True  # fakeredis
    # The sockets of gevent wrap one that never waits.
    wrapped: _socket.socket | None = getattr(connected, "_sock", None)
    if wrapped is not None:
        return _is_silent(wrapped)
    if socket.getdefaulttimeout() is not None:
        return not link.can_read()
    # Asking without regard to the timeout costs 2 µs here, and redis-py's poll takes 50.
    handle = _socket.socket(fileno=connected.fileno(), **_ANY_STREAM)
    try:
        return _is_silent(handle)
    finally:
        handle.detach()


def _is_silent(connected: _socket.socket) -> bool:
    try:
        connected.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class _Request:
    """One caller's commands, and what became of them."""

    __slots__ = ("commands", "error", "is_leader", "packed", "replies", "stored", "wake")

    def __init__(self, packed: bytes, commands: int):
        self.packed = packed
        self.commands = commands
        self.is_leader = False
        self.replies: list[Reply] = []
        self.error: BaseException | None = None
        self.stored: bool | None = False
        self.wake: threading.Event | None = None  # set when it is answered, or leads

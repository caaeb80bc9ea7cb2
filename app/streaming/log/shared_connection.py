"""One connection whose round trips concurrent callers share: group commit for appends.

Whoever comes while nobody is sending leads: it sends at once what waits, its own command
first, reads the answers, and lets the first of those who came meanwhile lead next. So a lone
caller waits for nobody, needs no other thread, and pays for no pool.
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
from collections.abc import Callable, Sequence
from typing import Any

from redis.connection import Connection
from redis.exceptions import RedisError

from ..errors import StoreUnavailable
from .connection import exchange, exchange_packed, is_of_no_master, pack
from .sentinel import leads_to_master

# What one round trip carries at the most, so that no caller waits long for others' bytes.
MAX_COMMANDS = 256
MAX_BYTES = 1024 * 1024

# A server that answers so much later than it should was away, for its producers too.
SILENT_SECONDS = 1.0

# Without them each new handle on a socket asks the system what it is.
_ANY_STREAM = {"family": socket.AF_INET, "type": socket.SOCK_STREAM, "proto": 0}


class SharedConnection:
    """Sends commands over one connection of its own, in the order in which they came.

    `connect` makes the connection, not yet connected. No command is ever sent twice.
    `connected_since` is a monotonic time, infinite while there is no connection. A signal
    handler may call it too, even one that has interrupted a call of its own thread.
    """

    def __init__(self, connect: Callable[[], Connection]):
        self._connect = connect
        self._begin()
        # After a fork the connection is the parent's, and so are those who wait for it.
        anew = weakref.WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: (begin := anew()) and begin())

    def call(self, *command: Any) -> Any:
        """The raw reply to one command, an error as a value; raises StoreUnavailable.

        What it raises tells whether the command may have been carried out.
        """
        return self.call_all(command)[0]

    def call_all(self, *commands: Sequence[Any]) -> list[Any]:
        """The raw replies to some commands that are sent together, as `call` gives one."""
        me, inside = threading.get_ident(), self._inside
        if me in inside:  # so this is a signal handler, and the call beneath it waits for it
            return self._call_apart(commands)
        turn = _Turn(pack(*commands), len(commands))
        try:
            inside.add(me)
            with self._lock:
                if self._led:
                    turn.woken = threading.Event()
                self._waiting.append(turn)
                if turn.woken is None:
                    turn.leads = self._led = True
            if not turn.leads:
                turn.woken.wait()
            if turn.leads:
                self._lead(turn)
        except BaseException:  # the caller was told to stop
            self._give_up(turn)
            raise
        finally:
            inside.discard(me)
        if turn.error is not None:
            raise _unavailable(turn.error, turn.stored) from None
        return turn.replies

    def _call_apart(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies over a connection that is made for them, and waits for nobody."""
        link, sent = self._connect(), False
        try:
            link.connect()
            sent = True
            return exchange(link, *commands)
        except (RedisError, OSError) as error:
            raise _unavailable(error, None if sent else False) from None
        finally:
            link.disconnect()

    def _begin(self) -> None:
        self._inside: set[int] = set()  # the threads that are in a call
        self._lock = threading.Lock()
        self._waiting: deque[_Turn] = deque()
        self._led = False
        self._link: Connection | None = None
        self.connected_since = math.inf

    def _give_up(self, turn: "_Turn") -> None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._waiting.remove(turn)
            if turn.leads:
                self._hand_over(turn)

    def _lead(self, turn: "_Turn") -> None:
        """Carry out what waits, and hand over."""
        batch: list[_Turn] = []
        try:
            self._next_batch(batch)
            self._carry_out(batch)
        except (RedisError, OSError) as error:
            with self._lock:
                late = list(self._waiting)  # what was not sent need not wait for its failure
                self._waiting.clear()
            for each in late:
                each.error = error
            batch += late
        finally:
            with self._lock:
                self._hand_over(turn)
            for each in batch:
                if each.woken is not None:
                    each.woken.set()

    def _next_batch(self, batch: list["_Turn"]) -> None:
        commands = size = 0
        with self._lock:
            while self._waiting and commands < MAX_COMMANDS and size < MAX_BYTES:
                batch.append(turn := self._waiting.popleft())
                commands += turn.commands
                size += len(turn.packed)

    def _carry_out(self, batch: list["_Turn"]) -> None:
        sent = False
        try:
            self._make_sure_of_link()
            sent = True
            commands, began = b"".join([turn.packed for turn in batch]), time.monotonic()
            replies = exchange_packed(self._link, commands, sum([turn.commands for turn in batch]))
            if time.monotonic() - began > SILENT_SECONDS:
                self.connected_since = time.monotonic()
            if any(map(is_of_no_master, replies)):  # a new connection may lead to the new one
                self._drop_link()
            first = 0
            for turn in batch:
                turn.replies = replies[first : first + turn.commands]
                first += turn.commands
        except BaseException as error:
            for turn in batch:
                turn.error, turn.stored = error, None if sent else False
            self._drop_link()
            raise

    def _hand_over(self, turn: "_Turn") -> None:
        turn.leads = False
        if self._waiting and self._waiting[0] is turn:
            self._waiting.popleft()
        self._led = bool(self._waiting)
        if self._led:
            self._waiting[0].leads = True
            self._waiting[0].woken.set()

    def _make_sure_of_link(self) -> None:
        """Connect, if there is no connection that Redis has not closed meanwhile."""
        if self._link is not None and leads_to_master(self._link) and self._is_quiet():
            return
        self._drop_link()
        link = self._connect()
        link.connect()
        self._link = link
        self.connected_since = time.monotonic()

    def _is_quiet(self) -> bool:
        """Whether nothing came unasked: the end of the connection, or a late reply."""
        link = self._link._sock
        if not isinstance(link, socket.socket):
            return True  # fakeredis
        if hasattr(link, "_sock"):  # what gevent has patched stands on one that never waits
            return _is_silent(link._sock)
        if socket.getdefaulttimeout() is not None:
            return not self._link.can_read()
        # Asked past its time-out this costs 2 µs, where redis-py's poll takes 50.
        handle = _socket.socket(fileno=link.fileno(), **_ANY_STREAM)
        try:
            return _is_silent(handle)
        finally:
            handle.detach()

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.disconnect()
            self._link = None
            self.connected_since = math.inf


def _unavailable(error: BaseException, stored: bool | None) -> StoreUnavailable:
    if isinstance(error, RedisError | OSError):
        return StoreUnavailable(f"Redis does not answer: {error}", stored)
    broken_off = "the round trip was broken off, with the caller that led it"
    return StoreUnavailable(broken_off, stored)


def _is_silent(connection: _socket.socket) -> bool:
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class _Turn:
    """One caller's commands, and what became of them."""

    __slots__ = ("commands", "error", "leads", "packed", "replies", "stored", "woken")

    def __init__(self, packed: bytes, commands: int):
        self.packed = packed
        self.commands = commands
        self.leads = False
        self.replies: list[Any] = []
        self.error: BaseException | None = None
        self.stored: bool | None = False
        self.woken: threading.Event | None = None

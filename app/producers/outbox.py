"""Puts events into an appender from any thread, without waiting and without raising."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, Self

from ..streaming.appender import Appender
from ..streaming.errors import AppenderFull, EventTooLarge
from ..streaming.event import is_terminal
from ..streaming.event_queue import MAX_WAITING_EVENTS
from ..streaming.new_event import MAX_EVENT_BYTES
from .plain import cut, plain

log = logging.getLogger("tailrace.producers")


class TakesEvents(Protocol):
    """An Appender or an AsyncAppender."""

    def emit_nowait(
        self,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        lease_seconds: int | None = None,
    ) -> None: ...


class Waiting(NamedTuple):
    """An event on its way to the appender; its data and source are JSON."""

    category: str
    action: str
    data: Any
    source: Any
    lease_seconds: int | None

    @classmethod
    def of(
        cls,
        category: str,
        action: str,
        data: Any,
        source: Any = None,
        lease_seconds: int | None = None,
    ) -> Self:
        """Make an event of any values. This may run code of the program, such as a `repr`."""
        return cls(category, action, plain(data), plain(source), lease_seconds)


class Outbox:
    """The events of one appender, in order.

    An AsyncAppender belongs to an event loop. Events of other threads reach it through that
    loop, and none overtakes another.
    """

    def __init__(self, appender: TakesEvents):
        self._appender = appender
        self._has_loop = not isinstance(appender, Appender)
        self._loop = _running_loop() if self._has_loop else None
        self._waiting: deque[Waiting] = deque()
        self._is_sending = False
        self._told = 0
        self._warned: type[Exception] | None = None
        self.dropped = 0

    def put(self, event: Waiting) -> None:
        """Have an event appended. One thread at a time may call."""
        # They wait here while the event loop does not turn, and other threads go on.
        is_end = is_terminal(event.category, event.action)
        if len(self._waiting) >= MAX_WAITING_EVENTS and not is_end:
            self.dropped += 1
            return None
        self._waiting.append(event)
        if not self._has_loop:
            return self._send_all()
        here = _running_loop()
        if self._loop is None or self._loop.is_closed():
            self._loop = here
        if self._loop is None or self._loop is here:
            return self._send_all()  # without a loop the appender says so
        try:
            self._loop.call_soon_threadsafe(self._send_all)
        except RuntimeError:  # it was closed just now
            self._send_all()
        return None

    def _send_all(self) -> None:
        """Send what waits; do nothing inside itself, as when a finalizer puts an event."""
        if self._is_sending:
            return
        self._is_sending = True
        try:
            while self._waiting:
                self._send(self._waiting.popleft())
        finally:
            self._is_sending = False

    def _send(self, event: Waiting) -> None:
        unknown = self.dropped - self._told
        if unknown and isinstance(event.data, dict):
            event = event._replace(data={**event.data, "dropped": unknown})
        try:
            self._send_cut(event)
        except AppenderFull:
            self.dropped += 1
        except Exception as error:  # no error of ours may reach the agent
            self.dropped += 1
            if self._warned is not type(error):
                self._warned = type(error)
                log.warning("an event is not stored: %s: %s", type(error).__name__, error)
        else:
            if isinstance(event.data, dict):
                self._told += unknown

    def _send_cut(self, event: Waiting) -> None:
        """Have an event appended, whose texts are cut until it fits."""
        length = MAX_EVENT_BYTES
        while True:
            category, action, data, source, lease_seconds = event
            try:
                self._appender.emit_nowait(
                    category, action, data, source, lease_seconds=lease_seconds
                )
                return
            except EventTooLarge:
                length //= 2
                if not length:
                    raise
            event = event._replace(data=cut(data, length), source=cut(source, length))


@contextlib.contextmanager
def keep_going() -> Iterator[None]:
    """Log what goes wrong with an event of a framework, instead of raising it into the agent."""
    try:
        yield
    except Exception:
        log.exception("an event is left out")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

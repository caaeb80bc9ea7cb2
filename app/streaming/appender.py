"""Appending one run's events in the background: in order, in batches, safe to repeat.

A signal handler may have interrupted whoever emits, anywhere, and who was interrupted goes on
only after it. So a caller puts an event there in one step, holds nothing for which anybody
waits, and waits for the sender alone; everything else is the sender's, in a thread that no
handler interrupts.
"""

import _thread
import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from .batch_sender import AppendBatch, BatchSender
from .errors import StoreUnavailable
from .new_event import MAX_EVENT_BYTES, MAX_EVENTS, Appended, NewEvent, check_range

# What waits at the most, before `emit` waits too.
MAX_WAITING_EVENTS = 10_000
MAX_WAITING_BYTES = 8 * 1024 * 1024

# A sender to which nothing came for so long ends; the next event starts another.
IDLE_SECONDS = 5.0


class Appender:
    """Appends a run's events from a thread of its own (a greenlet, where gevent has patched).

    `append` appends new_events, all or none, and takes an `idempotency_key`, `expected_sequence`
    and `lease_seconds`, as `EventStore.append_new` does; it must wait for nobody who emits.
    An event is sent at once; what comes while a batch is under way is the next batch. A batch
    that Redis cannot take now is repeated under its key until it is answered, or
    `retry_seconds` have gone by.

    What went wrong for good is raised by every later call, and nothing more is appended:
    `stored`, `last_id` and `last_sequence` tell how far it came. An event that is refused for
    what it is, as one that is too large for a gateway, is left out, and the others are
    appended: `refused` counts such events, and the next `flush` or `close` raises the first
    one's error. Leaving the context, and the exit of the interpreter or of a child of
    `multiprocessing`, wait for what was emitted. Any thread may use it, and a signal handler
    whatever it has interrupted (under gevent, one set by `gevent.signal_handler`); in a forked
    child it is empty.
    """

    def __init__(
        self,
        append: Callable[..., Appended],
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        expected_sequence: int | None = None,
        retry_seconds: float = 30.0,
    ):
        self._make_batches = partial(BatchSender, append, retry_seconds=retry_seconds)
        self._max_event_bytes = max_event_bytes
        self._closed = False
        self._begin(expected_sequence)
        _appenders.add(self)

    def _begin(self, expected_sequence: int | None) -> None:
        self._batches = self._make_batches(expected_sequence=expected_sequence)
        # An event, its lease, and the bytes that had been emitted with it; or no event, and a
        # lock to be released once what was emitted before is stored.
        self._waiting: deque[tuple[NewEvent | None, Any, int]] = deque()
        self._taken_bytes = 0
        self._error: Exception | None = None
        self._has_sender = self._starts_one = False
        self._finalizer: Any = None
        self._sending = threading.Lock()  # of the sender, for as long as it lives
        self._news = _taken_lock()  # free when something came
        self._room: deque[_thread.LockType] = deque()  # taken by those who wait for room

    @property
    def stored(self) -> int:
        """How many events are in the log."""
        return self._batches.stored

    @property
    def refused(self) -> int:
        """How many were left out."""
        return self._batches.refused

    @property
    def last_id(self) -> str | None:
        """The id of the last event in the log."""
        return self._batches.last_id

    @property
    def last_sequence(self) -> int | None:
        """The sequence of the last event in the log."""
        return self._batches.last_sequence

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def emit(
        self,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        lease_seconds: int | None = None,
    ) -> None:
        """Have an event appended; waits only while too much waits already.

        Raises InvalidInput, InvalidEvent and EventTooLarge for this event, which is then left
        out, and what went wrong with an earlier one.
        """
        new_event = NewEvent.of(
            event_category, event_action, data, source, max_bytes=self._max_event_bytes
        )
        if lease_seconds is not None:
            check_range("lease_seconds", lease_seconds)
        if self._is_full():
            self._wait_for_room()
        if self._closed:
            raise ValueError("the appender is closed")
        self._raise_what_went_wrong()
        self._put(new_event, lease_seconds, new_event.size)

    def flush(self) -> None:
        """Wait until what was emitted so far is in the log; raises what went wrong.

        Also the first refusal of an event that was left out, once.
        """
        if self._has_sender or self._waiting:
            stored = _taken_lock()
            self._put(None, stored, 0)
            stored.acquire()
        self._raise_what_went_wrong()
        refusal, self._batches.refusal = self._batches.refusal, None
        if refusal is not None:
            raise refusal

    def close(self) -> None:
        """Flush, and take no more; raises as `flush` does."""
        self._closed = True
        try:
            self.flush()
        finally:
            self._forget_exit()

    def _put(self, new_event: NewEvent | None, told: Any, size: int) -> None:
        self._waiting.append((new_event, told, self._emitted_bytes() + size))
        if self._news.locked():
            with contextlib.suppress(RuntimeError):  # somebody else has told it meanwhile
                self._news.release()
        if self._starts_one or not self._has_sender:
            self._start()

    def _emitted_bytes(self) -> int:
        """About: what comes in the same moment from two threads may count as one."""
        try:
            return self._waiting[-1][2]
        except IndexError:
            return self._taken_bytes

    def _is_full(self) -> bool:
        if len(self._waiting) >= MAX_WAITING_EVENTS:
            return True
        return self._emitted_bytes() - self._taken_bytes >= MAX_WAITING_BYTES

    def _wait_for_room(self) -> None:
        room = _taken_lock()
        self._room.append(room)
        if self._is_full():  # still, so that the sender will find who waits
            room.acquire()

    def _raise_what_went_wrong(self) -> None:
        if self._error is not None:
            self._forget_exit()  # which is for what nobody was told
            raise self._error

    def _flush_at_exit(self) -> None:
        atexit.register(self.flush)
        # A child of multiprocessing ends without that, but has a way of its own.
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None and self._finalizer is None:
            self._finalizer = multiprocessing.Finalize(None, self.flush, exitpriority=0)

    def _forget_exit(self) -> None:
        atexit.unregister(self.flush)
        finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer.cancel()

    def _start(self) -> None:
        self._starts_one = True  # which a signal handler does not count on
        self._has_sender = True
        self._flush_at_exit()
        try:
            # A threading.Thread has who starts it wait until it runs.
            _thread.start_new_thread(self._send, (IDLE_SECONDS,))
        except RuntimeError:  # no thread may be started while the interpreter exits
            if not self._sending.locked():
                self._send(0)
        self._starts_one = False

    # The sender

    def _send(self, patience: float) -> None:
        """Send what comes, until for so long nothing did.

        Two that were started in the same moment take turns.
        """
        with self._sending:
            while True:
                self._flush_at_exit()
                self._has_sender = True
                while self._is_needed(patience):
                    self._send_next()
                if self._error is None and self._batches.refusal is None:  # else the exit tells it
                    self._forget_exit()
                self._has_sender = False
                if not self._waiting:  # who came before that counts on this sender
                    return

    def _is_needed(self, patience: float) -> bool:
        while not self._waiting:
            if self._closed or not self._news.acquire(timeout=patience):
                return False
        return True

    def _send_next(self) -> None:
        """Append a batch of what waits, unless something went wrong; tell who waits for that."""
        batch, told = self._take()
        try:
            if batch.new_events and self._error is None:
                self._batches.store(batch)
        except BaseException as error:  # is kept, and raised by whatever is called next
            broken_off = StoreUnavailable("the sender was broken off", None)
            self._error = error if isinstance(error, Exception) else broken_off
        for each in told:
            each.release()
        while self._room:
            self._room.popleft().release()

    def _take(self) -> tuple[AppendBatch, list[_thread.LockType]]:
        new_events: list[NewEvent] = []
        told: list[_thread.LockType] = []
        size, lease = 0, None
        while self._waiting and len(new_events) < MAX_EVENTS and size < self._batches.most_bytes:
            new_event, given, self._taken_bytes = self._waiting.popleft()
            if new_event is None:
                told.append(given)
                continue
            new_events.append(new_event)
            size += new_event.size
            lease = given or lease
            if new_event.terminal:  # what follows it may be refused, but not with it
                break
        return AppendBatch.of(new_events, lease), told


def _taken_lock() -> _thread.LockType:
    """A lock to wait for, which takes one step to release and holds up no signal handler."""
    lock = threading.Lock()
    lock.acquire()
    return lock


_appenders: weakref.WeakSet[Appender] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a forked child: what waits is the parent's to send, and its senders are not here."""
    for appender in _appenders:
        appender._begin(appender._batches.expected_sequence)


os.register_at_fork(after_in_child=_leave_to_parent)

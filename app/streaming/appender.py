"""Appends the events of one run in the background: in order and in batches."""

import _thread
import contextlib
import os
import threading
from functools import partial
from typing import Any, Self

from . import at_exit
from .batch_sender import AppendBatch, AppendNew, BatchSender
from .errors import AppenderFull, ReentrantCall, StoreUnavailable, copy_of, without_variables
from .event_queue import EventQueue, Taken, Wakeup
from .new_event import MAX_EVENT_BYTES, NewEvent, check_range
from .reentrancy import one_call_per_thread

# A sender that got no event for this time ends. The next event starts another one.
IDLE_SECONDS = 5.0

# The threads that send, of all appenders.
_sending: set[int] = set()
os.register_at_fork(after_in_child=_sending.clear)


def is_sending() -> bool:
    """Return whether this thread (or greenlet) sends the events of an appender."""
    return threading.get_ident() in _sending


class Appender:
    """Appends a run's events in another thread (a greenlet, if gevent has patched).

    The sender appends an event at once. Events that come meanwhile are the next batch. While
    the store is unavailable, the sender repeats the batch under the same key, so no event is
    lost or stored twice, until `retry_seconds` are over.

    After a final error nothing more is appended, and every later call raises that error. If
    events are refused (too large for the gateway, for example), the others are appended; the
    next `flush` or `close` raises the first refusal.

    The end of the context waits until all events are stored. So does the exit of the
    interpreter, or of a child of `multiprocessing`; an error that no call has raised is printed
    there. After that, as in an exit handler that runs later, `emit` itself waits until its event
    is stored, and prints its error. A forked child starts with an empty appender.

    Any thread may use an appender. A signal handler may call `emit` (under gevent, set the
    handler with `gevent.signal_handler`). Other calls, and an `emit` that has to wait, raise
    ReentrantCall if the handler interrupted a call that waits for Redis or for the gateway.

    Args:
        append: appends new events; see AppendNew.
        name: what an error at the exit calls the appender.
        max_event_bytes: the largest event, as the JSON of its data and source.
        expected_sequence: the sequence that the first event must get; the others follow it.
        retry_seconds: how long a batch is repeated.
    """

    def __init__(
        self,
        append: AppendNew,
        *,
        name: str = "an appender",
        max_event_bytes: int = MAX_EVENT_BYTES,
        expected_sequence: int | None = None,
        retry_seconds: float = 30.0,
    ):
        self.name = name
        self._make_batch_sender = partial(BatchSender, append, retry_seconds=retry_seconds)
        self._max_event_bytes = max_event_bytes
        self._closed = False
        self._begin(expected_sequence)
        at_exit.add(self)

    def _begin(self, expected_sequence: int | None) -> None:
        self._batch_sender = self._make_batch_sender(expected_sequence=expected_sequence)
        self._queue = EventQueue()
        self._error: Exception | None = None
        self._taken = 0
        self._has_thread = self._starting = False
        self._sending = threading.Lock()  # held by the sender thread
        self._senders: set[int] = set()  # the threads that hold it, or wait for it

    @property
    def stored(self) -> int:
        """How many events are in the log."""
        return self._batch_sender.stored

    @property
    def refused(self) -> int:
        """How many events were refused."""
        return self._batch_sender.refused

    @property
    def not_stored(self) -> int:
        """How many events are not in the log, or were not when somebody last knew."""
        return self._queue.count_events() + self._taken - self.stored

    @property
    def has_final_error(self) -> bool:
        """Whether nothing more is appended."""
        return self._error is not None

    @property
    def last_id(self) -> str | None:
        """The id of the last event in the log."""
        return self._batch_sender.last_id

    @property
    def last_sequence(self) -> int | None:
        """The sequence of the last event in the log."""
        return self._batch_sender.last_sequence

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
        traceparent: str | None = None,
        lease_seconds: int | None = None,
    ) -> None:
        """Have an event appended. Wait only while 10,000 events or 8 MiB wait to be sent.

        `data` and `source` are any JSON values; for `traceparent` see `EventStore.append`, and
        for `lease_seconds` AppendOptions. Raises InvalidInput, InvalidEvent or EventTooLarge for
        this event, which is then left out; ValueError after `close`; the final error of an
        earlier event; and ReentrantCall if it would have to wait in a signal handler that
        interrupted a call.
        """
        event = event_category, event_action, data, source, traceparent
        new_event = self._new_event(*event, lease_seconds=lease_seconds)
        if self._queue.is_full():
            self._check_may_wait()
            self._queue.wait_for_room()
        self._put(new_event, lease_seconds)

    def emit_nowait(
        self,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        traceparent: str | None = None,
        lease_seconds: int | None = None,
    ) -> None:
        """Have an event appended as `emit` does, but raise AppenderFull instead of waiting.

        For the last event of a run there is a reserve.
        """
        event = event_category, event_action, data, source, traceparent
        new_event = self._new_event(*event, lease_seconds=lease_seconds)
        self._check_open()
        if not self._queue.has_place_for(new_event):
            raise AppenderFull
        self._put(new_event, lease_seconds)

    def _new_event(self, *event: Any, lease_seconds: int | None) -> NewEvent:
        new_event = NewEvent.of(*event, max_bytes=self._max_event_bytes)
        if lease_seconds is not None:
            check_range("lease_seconds", lease_seconds)
        return new_event

    def _put(self, new_event: NewEvent, lease_seconds: int | None) -> None:
        self._check_open()
        self._queue.put(new_event, lease_seconds)
        self._make_sure_of_thread()
        if at_exit.has_flushed():
            at_exit.flush(self)

    def flush(self) -> None:
        """Wait until all events so far are in the log.

        Raises the final error, or else the first refusal since the last `flush`, and
        ReentrantCall in a signal handler that interrupted a call.
        """
        self._check_may_wait()
        if self._has_thread or not self._queue.is_empty():
            flushed = self._queue.put_wakeup()
            self._make_sure_of_thread()
            flushed.wait()
        self._raise_error()
        refusal, self._batch_sender.refusal = self._batch_sender.refusal, None
        at_exit.forget_error_of(self)
        if refusal is not None:
            raise refusal

    def close(self) -> None:
        """Flush, and take no more events. Raises as `flush` does."""
        self._check_may_wait()
        self._closed = True
        self.flush()

    def begin_in_child(self) -> None:
        """Begin anew in a forked child: the parent sends what waits."""
        self._begin(self._batch_sender.expected_sequence)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the appender is closed")
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            at_exit.forget_error_of(self)
            raise copy_of(self._error)

    def _check_may_wait(self) -> None:
        """Raise ReentrantCall in a signal handler that interrupted a call, or the sender."""
        one_call_per_thread.check()
        if threading.get_ident() in self._senders:
            raise ReentrantCall

    def _make_sure_of_thread(self) -> None:
        if self._has_thread and not self._starting:
            return
        # A signal handler may come before the thread is started. Then it starts one itself.
        self._starting = True
        self._has_thread = True
        at_exit.watch_exit_of_child()
        try:
            # The start of a threading.Thread waits until the thread runs.
            _thread.start_new_thread(self._send_all, (IDLE_SECONDS,))
        except RuntimeError:  # no thread can be started while the interpreter exits
            self._send_here()
        self._starting = False

    def _send_here(self) -> None:
        """Send in this thread, unless this is a signal handler that interrupted a call."""
        with contextlib.suppress(ReentrantCall):
            self._check_may_wait()
            while not self._queue.is_empty():
                self._send_all(0)
        self._has_thread = False

    # The sender thread

    def _send_all(self, idle_seconds: float) -> None:
        """Send what comes, until nothing has come for `idle_seconds`.

        If two senders were started at the same moment, the second one waits for the first.
        """
        thread = threading.get_ident()
        try:
            self._senders.add(thread)
            _sending.add(thread)
            with self._sending:
                while True:
                    self._has_thread = True
                    while (taken := self._take(idle_seconds)) is not None:
                        self._send(taken)
                    self._has_thread = False
                    if self._queue.is_empty():  # else a caller has relied on this sender
                        return
        finally:
            self._senders.discard(thread)
            _sending.discard(thread)

    def _take(self, idle_seconds: float) -> Taken[Wakeup] | None:
        return self._queue.take(0.0 if self._closed else idle_seconds, self._batch_sender.max_bytes)

    def _send(self, taken: Taken[Wakeup]) -> None:
        """Append the events, unless there was a final error, and wake the callers that wait."""
        self._taken += len(taken.new_events)
        try:
            if taken.new_events and self._error is None:
                self._batch_sender.send(AppendBatch.of(taken.new_events, taken.lease_seconds))
        except BaseException as error:
            broken_off = StoreUnavailable("the sender was interrupted", None)
            self._error = without_variables(error if isinstance(error, Exception) else broken_off)
            at_exit.keep_error_of(self)
        if self._batch_sender.refusal is not None:
            at_exit.keep_error_of(self)
        self._queue.wake(taken)

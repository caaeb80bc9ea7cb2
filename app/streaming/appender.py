"""Appending one run's events in the background: in order, in batches, safe to repeat."""

import atexit
import contextlib
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from app.streaming.draft import MAX_EVENT_BYTES, MOST_EVENTS, Appended, Draft, check_range
from app.streaming.errors import StoreUnavailable

# What waits at the most, before `emit` waits too; and what one batch carries.
WAITING_EVENTS = 10_000
WAITING_BYTES = 8 * 1024 * 1024
BATCH_BYTES = 1024 * 1024

# A sender to which nothing came for so long ends; the next event starts another.
IDLE_SECONDS = 5.0

# Between two attempts; each pause is twice the one before, spread at random by a half.
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0


class Batch(NamedTuple):
    """Events that are appended together, at the first attempt and at each later one."""

    drafts: list[Draft]
    size: int
    lease_seconds: int | None
    idempotency_key: str


class Appender:
    """Appends a run's events from a thread of its own (a greenlet, where gevent has patched).

    `append` appends drafts, all or none, and takes an `idempotency_key`, `expected_sequence`
    and `lease_seconds`, as `EventStore.append_drafts` does. An event is sent at once; what
    comes while a batch is under way is the next batch. A batch that Redis cannot take now is
    repeated under its key until it is answered, or `retry_seconds` have gone by.

    What went wrong for good is raised by every later call, and nothing more is appended:
    `stored`, `last_id` and `last_sequence` tell how far it came. Leaving the context, and the
    interpreter's exit, wait for what was emitted (not that of a `multiprocessing` child, which
    runs nothing at its end). Any thread may use it, but no signal handler, which may have
    interrupted it; in a forked child it is empty.
    """

    def __init__(
        self,
        append: Callable[..., Appended],
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        expected_sequence: int | None = None,
        retry_seconds: float = 30.0,
    ):
        self._append = append
        self._max_event_bytes = max_event_bytes
        self._retry_seconds = retry_seconds
        self._expected = expected_sequence
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self.emitted = 0
        self.stored = 0
        self.last_id: str | None = None
        self.last_sequence: int | None = None
        self._waiting: deque[tuple[Draft, int | None]] = deque()
        self._bytes = 0
        self._batch: Batch | None = None  # which is under way
        self._error: Exception | None = None
        self._sender: threading.Thread | None = None
        lock = threading.Lock()
        self._news = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._sending = threading.Lock()

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
        draft = Draft.of(
            event_category, event_action, data, source, max_bytes=self._max_event_bytes
        )
        if lease_seconds is not None:
            check_range("lease_seconds", lease_seconds)
        self._leave_to_parent()
        with self._room:
            while self._is_full() and self._error is None:
                self._room.wait()
            if self._closed:
                raise ValueError("the appender is closed")
            self._raise_what_went_wrong()
            self._waiting.append((draft, lease_seconds))
            self._bytes += draft.size
            self.emitted += 1
            if self._sender is None:
                self._start()
            elif len(self._waiting) == 1:
                self._news.notify()

    def flush(self) -> None:
        """Wait until what was emitted so far is in the log; raises what went wrong."""
        self._leave_to_parent()
        emitted = self.emitted
        while self.stored < emitted:
            self._send_next()
        self._raise_what_went_wrong()

    def close(self) -> None:
        """Flush, and take no more; raises what went wrong."""
        self._leave_to_parent()
        with self._news:
            self._closed = True
            self._news.notify()
        try:
            self.flush()
        finally:
            atexit.unregister(self.flush)

    def _leave_to_parent(self) -> None:
        """In a forked child: what waits is the parent's to send, and its sender is not here."""
        if self._process != os.getpid():
            self._begin()

    def _is_full(self) -> bool:
        return len(self._waiting) >= WAITING_EVENTS or self._bytes >= WAITING_BYTES

    def _raise_what_went_wrong(self) -> None:
        if self._error is not None:
            atexit.unregister(self.flush)  # which is for what nobody was told
            raise self._error

    # Sending, by the sender or by whoever flushes

    def _start(self) -> None:
        self._sender = threading.Thread(target=self._send, name="appender", daemon=True)
        atexit.register(self.flush)
        # While the interpreter exits, no thread may be started: what waits is flushed then.
        with contextlib.suppress(RuntimeError):
            self._sender.start()

    def _send(self) -> None:
        while self._is_needed():
            try:
                self._send_next()
            except Exception:  # which is kept, and raised by whatever is called next
                return

    def _is_needed(self) -> bool:
        """Wait until there is something to send; the sender ends when it has come to nothing."""
        with self._news:
            if not self._waiting and not self._closed and self._batch is None:
                self._news.wait(IDLE_SECONDS)
            if self._waiting or self._batch is not None:
                return True
            self._sender = None
            atexit.unregister(self.flush)
            return False

    def _send_next(self) -> None:
        """Append a batch of what waits, if anything does; raises what went wrong."""
        with self._sending:
            self._raise_what_went_wrong()
            batch = self._next_batch()
            if batch is None:
                return
            try:
                appended = self._append_or_repeat(batch)
            except Exception as error:
                with self._room:
                    self._error = error
                    self._waiting.clear()
                    self._room.notify_all()
                raise
            with self._room:
                self._batch = None
                self._bytes -= batch.size
                self.stored += len(batch.drafts)
                self.last_id, self.last_sequence = appended.last_id, appended.last_sequence
                self._room.notify_all()
            if self._expected is not None:
                self._expected += len(batch.drafts)

    def _next_batch(self) -> Batch | None:
        """The one that is under way, if its sender was interrupted, or else a new one."""
        with self._room:
            if self._batch is None and self._waiting:
                self._batch = self._take()
            return self._batch

    def _take(self) -> Batch:
        drafts: list[Draft] = []
        size, lease = 0, None
        while self._waiting and len(drafts) < MOST_EVENTS and size < BATCH_BYTES:
            draft, lease_seconds = self._waiting.popleft()
            drafts.append(draft)
            size += draft.size
            lease = lease_seconds or lease
            if draft.terminal:  # what follows it may be refused, but not with it
                break
        return Batch(drafts, size, lease, uuid.uuid4().hex)

    def _append_or_repeat(self, batch: Batch) -> Appended:
        until = time.monotonic() + self._retry_seconds
        pause, stored = FIRST_PAUSE_SECONDS, False
        while True:
            try:
                return self._append(
                    batch.drafts,
                    idempotency_key=batch.idempotency_key,
                    expected_sequence=self._expected,
                    lease_seconds=batch.lease_seconds,
                )
            except StoreUnavailable as error:
                stored = None if error.stored is None else stored
                wanted = error.retry_after
                if time.monotonic() + pause + wanted > until:
                    error.stored = stored  # by any of the attempts
                    raise
            time.sleep(wanted + pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

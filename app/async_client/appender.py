"""Appends the events of one run in the background, in a task: in order and in batches."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol, Self, Unpack

from ..streaming import at_exit
from ..streaming.batch_sender import AppendBatch, BatchOutcomes, BatchRepeats
from ..streaming.errors import (
    AppenderFull,
    EventTooLarge,
    InvalidEvent,
    StoreUnavailable,
    copy_of,
    without_variables,
)
from ..streaming.event_queue import WaitingEvents
from ..streaming.new_event import (
    MAX_EVENT_BYTES,
    Appended,
    AppendOptions,
    NewEvent,
    check_range,
)
from .own_loop import OwnLoop

# After so many events without a pause, the other tasks get a turn.
EVENTS_A_TURN = 100


class AppendNewAsync(Protocol):
    """Appends new events to one run, all or none, as `AsyncClient.append_new` does."""

    def __call__(
        self, new_events: list[NewEvent], **options: Unpack[AppendOptions]
    ) -> Awaitable[Appended]: ...


class AsyncAppender:
    """Appends a run's events in another task, which lives while events wait.

    It sends an event at once. Events that come meanwhile are the next batch. While the gateway
    is unavailable, it repeats the batch under the same key, so no event is lost or stored twice,
    until `retry_seconds` are over. A final error and refused events are as for `Appender`.

    The end of the context waits until all events are stored, also when the context is
    cancelled. If the event loop ends before that, or a second cancellation interrupts the wait,
    the exit of the interpreter prints how many events are not stored.

    All calls belong to one event loop. In a handler of `loop.add_signal_handler`, call
    `emit_nowait`. A forked child starts with an empty appender.

    Args:
        append: appends new events; see AppendNewAsync.
        name: what an error at the exit calls the appender.
        max_event_bytes: the largest event, as the JSON of its data and source.
        expected_sequence: the sequence that the first event must get; the others follow it.
        retry_seconds: how long a batch is repeated.
    """

    def __init__(
        self,
        append: AppendNewAsync,
        *,
        name: str = "an appender",
        max_event_bytes: int = MAX_EVENT_BYTES,
        expected_sequence: int | None = None,
        retry_seconds: float = 30.0,
    ):
        self.name = name
        self._append = append
        self._max_event_bytes = max_event_bytes
        self._retry_seconds = retry_seconds
        self._closed = False
        self._loop = OwnLoop("this appender")
        self._inherited: list[asyncio.Task[None]] = []
        self._begin(expected_sequence)
        self._at_exit = _AtExit(self)
        at_exit.add(self._at_exit)

    def _begin(self, expected_sequence: int | None) -> None:
        self._outcomes = BatchOutcomes(expected_sequence)
        self._waiting: WaitingEvents[asyncio.Future[None]] = WaitingEvents()
        self._unsent: list[AppendBatch] = []  # taken, and not known to be stored
        self._flushed: list[asyncio.Future[None]] = []  # due when that is stored
        self._for_room: list[asyncio.Future[None]] = []
        self._waiters: set[asyncio.Future[None]] = set()  # all that a call waits for
        self._error: Exception | None = None
        self._sender: asyncio.Task[None] | None = None
        self._count = 0
        self._since_turn = 0

    @property
    def stored(self) -> int:
        """How many events are in the log."""
        return self._outcomes.stored

    @property
    def refused(self) -> int:
        """How many events were refused."""
        return self._outcomes.refused

    @property
    def not_stored(self) -> int:
        """How many events are not in the log, or were not when somebody last knew."""
        return self._count - self.stored

    @property
    def has_final_error(self) -> bool:
        """Whether nothing more is appended."""
        return self._error is not None

    @property
    def last_id(self) -> str | None:
        """The id of the last event in the log."""
        return self._outcomes.last_id

    @property
    def last_sequence(self) -> int | None:
        """The sequence of the last event in the log."""
        return self._outcomes.last_sequence

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def emit(
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

        The wait does not block the loop. If it is cancelled, the event is left out. `data` and
        `source` are any JSON values; for `traceparent` see `AsyncClient.add`, and for
        `lease_seconds` AppendOptions. Raises InvalidInput,
        InvalidEvent or EventTooLarge for this event, which is then left out; ValueError after
        `close`; and the final error of an earlier event.
        """
        event = event_category, event_action, data, source, traceparent
        new_event = self._new_event(*event, lease_seconds=lease_seconds)
        self._enter()
        if self._since_turn >= EVENTS_A_TURN:
            self._since_turn = 0
            await asyncio.sleep(0)
        while self._waiting.is_full() and self._error is None and not self._closed:
            self._for_room.append(room := asyncio.get_running_loop().create_future())
            await self._wait(room)
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
        self._enter()
        self._check_open()
        if not self._waiting.has_place_for(new_event):
            raise AppenderFull
        self._put(new_event, lease_seconds)

    async def flush(self) -> None:
        """Wait until all events so far are in the log.

        If the wait is cancelled, the events are sent all the same. Raises the final error, or
        else the first refusal since the last `flush`.
        """
        self._enter()
        if not self.is_idle():
            flushed = asyncio.get_running_loop().create_future()
            self._waiting.put_mark(flushed)
            await self._wait(flushed)
        self._raise_error()
        refusal, self._outcomes.refusal = self._outcomes.refusal, None
        at_exit.forget_error_of(self._at_exit)
        if refusal is not None:
            raise refusal

    async def close(self) -> None:
        """Flush, and take no more events. Raises as `flush` does."""
        self._closed = True
        await self.flush()

    def begin_in_child(self) -> None:
        """Begin anew in a forked child: the parent sends what waits."""
        if self._sender is not None:
            self._inherited.append(self._sender)  # to free it would log an error
        self._begin(self._outcomes.expected_sequence)

    def is_idle(self) -> bool:
        """Return whether nothing waits or is being sent."""
        return self._waiting.is_empty() and not self._unsent and not self._has_sender()

    def raise_at_exit(self) -> None:
        """Raise what no call has raised, and StoreUnavailable if events still wait."""
        self._raise_error()
        if self._outcomes.refusal is not None:
            raise self._outcomes.refusal
        if not self.is_idle():
            stored = None if self._unsent else False
            raise StoreUnavailable("their event loop has ended", stored)

    # Inside

    def _enter(self) -> None:
        """Note the event loop. After another loop was closed, go on in this one."""
        if self._loop.enter():
            self._sender = None
            self._waiters.clear()
            self._flushed.clear()
            self._for_room.clear()

    def _new_event(self, *event: Any, lease_seconds: int | None) -> NewEvent:
        new_event = NewEvent.of(*event, max_bytes=self._max_event_bytes)
        if lease_seconds is not None:
            check_range("lease_seconds", lease_seconds)
        return new_event

    def _put(self, new_event: NewEvent, lease_seconds: int | None) -> None:
        self._check_open()
        self._waiting.put(new_event, lease_seconds)
        self._count += 1
        self._since_turn += 1
        self._make_sure_of_sender()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the appender is closed")
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            at_exit.forget_error_of(self._at_exit)
            raise copy_of(self._error)

    async def _wait(self, waiter: asyncio.Future[None]) -> None:
        """Wait until the sender sets the result of a future."""
        self._waiters.add(waiter)
        self._make_sure_of_sender()
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _has_sender(self) -> bool:
        return self._sender is not None and not self._sender.done()

    def _make_sure_of_sender(self) -> None:
        if not self._has_sender():
            at_exit.keep_error_of(self._at_exit)  # as long as events wait
            name = f"sender of {self.name}"
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name=name)

    # The sender

    async def _send_all(self) -> None:
        """Send until nothing waits. If that is cancelled, a call that waits starts it again."""
        try:
            while self._unsent or not self._waiting.is_empty():
                if not self._unsent:  # else a sender was cancelled
                    self._take()
                await self._send_unsent()
                self._wake()
        finally:
            self._sender = None
            if not all(waiter.done() for waiter in self._waiters):
                self._make_sure_of_sender()
            elif self.is_idle() and self._error is None and self._outcomes.refusal is None:
                at_exit.forget_error_of(self._at_exit)

    def _take(self) -> None:
        taken = self._waiting.take_batch(self._outcomes.max_bytes)
        self._flushed += taken.marks
        if taken.new_events:
            self._unsent.append(AppendBatch.of(taken.new_events, taken.lease_seconds))
        self._since_turn = 0

    async def _send_unsent(self) -> None:
        """Append the batches that were taken, unless there was a final error."""
        try:
            while self._unsent and self._error is None:
                batch = self._unsent[0]
                try:
                    appended = await self._append_or_repeat(batch)
                except (EventTooLarge, InvalidEvent) as error:
                    self._unsent[:1] = self._outcomes.split(batch, error)
                else:
                    del self._unsent[0]
                    self._outcomes.note(batch, appended)
        except Exception as error:
            self._error = without_variables(error)
        if self._error is not None:
            self._unsent.clear()

    async def _append_or_repeat(self, batch: AppendBatch) -> Appended:
        repeats = BatchRepeats(self._retry_seconds)
        while True:
            try:
                return await self._append(batch.new_events, **self._outcomes.options(batch))
            except StoreUnavailable as error:
                pause = repeats.pause_after(error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    def _wake(self) -> None:
        """Wake the calls that wait for what was sent, and those that wait for room."""
        for waiter in (*self._flushed, *self._for_room):
            if not waiter.done():
                waiter.set_result(None)
        self._flushed.clear()
        self._for_room.clear()


class _AtExit:
    """An appender, as the exit of the process knows it: all that is left is to say what is lost."""

    def __init__(self, appender: AsyncAppender):
        self._appender = appender
        self.begin_in_child = appender.begin_in_child
        self.flush = appender.raise_at_exit

    @property
    def name(self) -> str:
        return self._appender.name

    @property
    def not_stored(self) -> int:
        return self._appender.not_stored

    @property
    def has_final_error(self) -> bool:
        return self._appender.has_final_error

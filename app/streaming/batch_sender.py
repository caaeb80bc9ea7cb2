"""Sends the batches of an appender one after another; a repeated batch is stored once."""

import time
import uuid
from typing import NamedTuple, Protocol, Unpack

from .backoff import backoff
from .errors import EventTooLarge, InvalidEvent, StoreUnavailable
from .new_event import Appended, AppendOptions, NewEvent

# About: the last event of a batch may exceed it.
MAX_BATCH_BYTES = 1024 * 1024

# Between two attempts.
INITIAL_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0


class AppendNew(Protocol):
    """Appends new events to one run, all or none, as `EventStore.append_new` does."""

    def __call__(
        self, new_events: list[NewEvent], **options: Unpack[AppendOptions]
    ) -> Appended: ...


class AppendBatch(NamedTuple):
    """Events that every attempt appends together, under one key."""

    new_events: list[NewEvent]
    lease_seconds: int | None
    idempotency_key: str

    @classmethod
    def of(cls, new_events: list[NewEvent], lease_seconds: int | None) -> "AppendBatch":
        """Make a batch with a key that no other batch has."""
        return cls(new_events, lease_seconds, uuid.uuid4().hex)


class BatchSender:
    """Appends batches, repeats them while the store is unavailable, and counts their events.

    If events of a batch are refused, they are left out and the others are appended: `refused`
    counts them, and `refusal` is the first such error since it was last set to None.
    `max_bytes` is about the size of the largest batch to send.
    """

    def __init__(self, append: AppendNew, expected_sequence: int | None, retry_seconds: float):
        self.stored = 0
        self.refused = 0
        self.refusal: EventTooLarge | InvalidEvent | None = None
        self.last_id: str | None = None
        self.last_sequence: int | None = None
        self.expected_sequence = expected_sequence
        self.max_bytes = MAX_BATCH_BYTES
        self._append = append
        self._retry_seconds = retry_seconds

    def send(self, batch: AppendBatch) -> None:
        """Append a batch, and repeat it until it is stored or `retry_seconds` are over.

        Raises StoreUnavailable then, and what else `append` raises, except for refused events.
        """
        try:
            appended = self._append_or_repeat(batch)
        except (EventTooLarge, InvalidEvent) as error:
            self._split(batch, error)
            return
        self.stored += len(batch.new_events)
        self.last_id, self.last_sequence = appended.last_id, appended.last_sequence
        if self.expected_sequence is not None:
            self.expected_sequence += len(batch.new_events)

    def _split(self, batch: AppendBatch, error: EventTooLarge | InvalidEvent) -> None:
        """Send the halves of a refused batch; leave out an event that is refused alone."""
        new_events, lease_seconds, _ = batch
        if len(new_events) == 1:
            self.refused += 1
            self.refusal = self.refusal or error
            return
        if error.field == "body":  # the next batch would be too large as well
            self.max_bytes = max(1, sum(new_event.size for new_event in new_events) // 2)
        half = len(new_events) // 2
        for part in (new_events[:half], new_events[half:]):
            self.send(AppendBatch.of(part, lease_seconds))

    def _append_or_repeat(self, batch: AppendBatch) -> Appended:
        deadline = time.monotonic() + self._retry_seconds
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        stored: bool | None = False
        while True:
            try:
                return self._append(
                    batch.new_events,
                    idempotency_key=batch.idempotency_key,
                    expected_sequence=self.expected_sequence,
                    lease_seconds=batch.lease_seconds,
                )
            except StoreUnavailable as error:
                stored = None if error.stored is None else stored
                pause = error.retry_after + next(pauses)
                if time.monotonic() + pause > deadline:
                    error.stored = stored  # by any of the attempts
                    raise
            time.sleep(pause)

"""A run's events on their way into its log: batch after batch, each safe to repeat."""

import random
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from .errors import EventTooLarge, InvalidEvent, StoreUnavailable
from .new_event import Appended, NewEvent

# What one batch carries at the most.
BATCH_BYTES = 1024 * 1024

# Between two attempts; each pause is twice the one before, spread at random by a half.
INITIAL_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0


class AppendBatch(NamedTuple):
    """Events that are appended together, at the first attempt and at each later one."""

    new_events: list[NewEvent]
    lease_seconds: int | None
    idempotency_key: str

    @classmethod
    def of(cls, new_events: list[NewEvent], lease_seconds: int | None) -> "AppendBatch":
        return cls(new_events, lease_seconds, uuid.uuid4().hex)


class BatchSender:
    """Appends batches, and tells what became of their events.

    A batch that is refused for what is in it is appended in parts, without the events that are
    at fault: `refused` counts them, and `refusal` is the first error of which nobody was told.
    `most_bytes` is what a batch should have at the most.
    """

    def __init__(
        self,
        append: Callable[..., Appended],
        expected_sequence: int | None,
        retry_seconds: float,
    ):
        self.stored = 0
        self.refused = 0
        self.refusal: EventTooLarge | InvalidEvent | None = None
        self.last_id: str | None = None
        self.last_sequence: int | None = None
        self.expected_sequence = expected_sequence
        self.most_bytes = BATCH_BYTES
        self._append = append
        self._retry_seconds = retry_seconds

    def store(self, batch: AppendBatch) -> None:
        """Append a batch; raises what goes wrong for good."""
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
        """Append the halves of a batch that was refused, but for an event that is at fault."""
        new_events, lease, _ = batch
        if len(new_events) == 1:
            self.refused += 1
            self.refusal = self.refusal or error
            return
        if error.field == "body":  # and so would the next one be
            self.most_bytes = max(1, sum(new_event.size for new_event in new_events) // 2)
        half = len(new_events) // 2
        for part in (new_events[:half], new_events[half:]):
            self.store(AppendBatch.of(part, lease))

    def _append_or_repeat(self, batch: AppendBatch) -> Appended:
        until = time.monotonic() + self._retry_seconds
        pause, stored = INITIAL_PAUSE_SECONDS, False
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
                wanted = error.retry_after
                if time.monotonic() + pause + wanted > until:
                    error.stored = stored  # by any of the attempts
                    raise
            time.sleep(wanted + pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

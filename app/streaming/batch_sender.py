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


class BatchOutcomes:
    """Counts the events of batches, and says what follows a batch.

    If events of a batch are refused, they are left out and the others are appended: `refused`
    counts them, and `refusal` is the first such error since it was last set to None.
    `max_bytes` is about the size of the largest batch to send.
    """

    def __init__(self, expected_sequence: int | None):
        self.stored = 0
        self.refused = 0
        self.refusal: EventTooLarge | InvalidEvent | None = None
        self.last_id: str | None = None
        self.last_sequence: int | None = None
        self.expected_sequence = expected_sequence
        self.max_bytes = MAX_BATCH_BYTES

    def options(self, batch: AppendBatch) -> AppendOptions:
        """Return the options of the append of a batch."""
        return {
            "idempotency_key": batch.idempotency_key,
            "expected_sequence": self.expected_sequence,
            "lease_seconds": batch.lease_seconds,
        }

    def note(self, batch: AppendBatch, appended: Appended) -> None:
        """Note that a batch is stored."""
        self.stored += len(batch.new_events)
        self.last_id, self.last_sequence = appended.last_id, appended.last_sequence
        if self.expected_sequence is not None:
            self.expected_sequence += len(batch.new_events)

    def split(self, batch: AppendBatch, error: EventTooLarge | InvalidEvent) -> list[AppendBatch]:
        """Return the halves of a refused batch, to be sent instead.

        An event that is refused alone is left out.
        """
        new_events, lease_seconds, _ = batch
        if len(new_events) == 1:
            self.refused += 1
            self.refusal = self.refusal or error
            return []
        if error.field == "body":  # the next batch would be too large as well
            self.max_bytes = max(1, sum(new_event.size for new_event in new_events) // 2)
        half = len(new_events) // 2
        parts = (new_events[:half], new_events[half:])
        return [AppendBatch.of(part, lease_seconds) for part in parts]


class BatchRepeats:
    """The attempts to append one batch, for `retry_seconds` from now."""

    def __init__(self, retry_seconds: float):
        self._deadline = time.monotonic() + retry_seconds
        self._pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._stored: bool | None = False

    def pause_after(self, error: StoreUnavailable) -> float | None:
        """Return the seconds to wait after a failed attempt, None if it was the last one.

        The `stored` of the last error is about all attempts.
        """
        self._stored = None if error.stored is None else self._stored
        pause = error.retry_after + next(self._pauses)
        if time.monotonic() + pause > self._deadline:
            error.stored = self._stored
            return None
        return pause


class BatchSender(BatchOutcomes):
    """Appends batches, and repeats them while the store is unavailable."""

    def __init__(self, append: AppendNew, expected_sequence: int | None, retry_seconds: float):
        super().__init__(expected_sequence)
        self._append = append
        self._retry_seconds = retry_seconds

    def send(self, batch: AppendBatch) -> None:
        """Append a batch, and repeat it until it is stored or `retry_seconds` are over.

        Raises StoreUnavailable then, and what else `append` raises, except for refused events.
        """
        left = [batch]
        while left:
            batch = left.pop(0)
            try:
                self.note(batch, self._append_or_repeat(batch))
            except (EventTooLarge, InvalidEvent) as error:
                left[:0] = self.split(batch, error)

    def _append_or_repeat(self, batch: AppendBatch) -> Appended:
        repeats = BatchRepeats(self._retry_seconds)
        while True:
            try:
                return self._append(batch.new_events, **self.options(batch))
            except StoreUnavailable as error:
                pause = repeats.pause_after(error)
                if pause is None:
                    raise
            time.sleep(pause)

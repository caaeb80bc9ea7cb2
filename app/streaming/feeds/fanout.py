"""The fanout: one loop that writes a feed's batches to every parked subscriber."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ...metrics.catalog import PARTIAL_SENDS
from ..wire.formats import StreamFormat
from ..wire.frame_batch import Encoded, http_chunk
from ..wire.progress import Progress, progress_frame
from .delivered import count_sent

# After this many sockets the loop gives way to appends, health checks and other feeds.
MAX_SENDS_IN_A_ROW = 256


class Socket(Protocol):
    """What a fanout needs of a client's socket; see `ClientSocket`."""

    @property
    def chunked(self) -> bool: ...

    @property
    def send(self) -> Callable[[bytes], int]: ...


class Batch(Protocol):
    """What a fanout delivers, of one run or of several: what leads from one place to another."""

    @property
    def start(self) -> Any: ...

    @property
    def end(self) -> Any: ...

    def encode(self, stream_format: StreamFormat, chunked: bool) -> Encoded: ...


class ParkedSubscriber(Protocol):
    """What a fanout needs of a subscriber."""

    position: Any

    @property
    def client_socket(self) -> Socket: ...

    def unpark(self, unsent: memoryview | None) -> None:
        """Leave the fanout: write `unsent`, catch up with the feed, and park again."""

    def end(self, reason: str) -> None:
        """End the stream soon, when what was sent to it is written."""


class Sent(NamedTuple):
    """How much was sent."""

    events: int
    bytes: int


class Fanout:
    """The parked subscribers of a run that get the same bytes: one stream format, one framing.

    A parked subscriber has no greenlet. It is up to date, and the fanout writes what comes next
    straight to its socket.

    Attributes:
        parked: the subscribers, each with the value of `sent` when it parked.
        sent: what each subscriber got that was parked all the time.
        last_sent: when bytes were last sent, a monotonic time; 0 for never.
        progress: what `id:` lines were sent.
    """

    __slots__ = ("_run_id", "chunked", "last_sent", "parked", "progress", "sent", "stream_format")

    def __init__(self, run_id: str, stream_format: StreamFormat, chunked: bool):
        self.stream_format = stream_format
        self.chunked = chunked
        self.parked: dict[ParkedSubscriber, Sent] = {}
        self.sent = Sent(0, 0)
        self.last_sent = 0.0
        self.progress = Progress()
        self._run_id = run_id

    def sent_since(self, before: Sent) -> Sent:
        """Return what was sent since `sent` was `before`."""
        return Sent(self.sent.events - before.events, self.sent.bytes - before.bytes)

    def deliver(self, batch: Batch) -> None:
        """Write a batch to every subscriber whose position is the start of the batch.

        This loop is the price of a delivered event. It checks the position, writes, and does
        nothing else. All who are up to date have the same position, the very same object: what
        follows it was decided once for all of them. `send` never waits: a subscriber whose socket
        does not take every byte is unparked, and finishes in a greenlet of its own.

        While the loop gives way, a subscriber may leave, catch up and park again, or park for
        the first time. Its position tells whether it still needs the batch.
        """
        encoded = batch.encode(self.stream_format, self.chunked)
        chunk, start, end = self._chunk(encoded, batch), batch.start, batch.end
        size, is_over = len(chunk), encoded.is_over
        self.sent = Sent(self.sent.events + encoded.events, self.sent.bytes + size)
        number = counted = 0
        for number, subscriber in enumerate(list(self.parked), 1):
            if subscriber not in self.parked:
                counted += 1
                continue  # left while the loop gave way
            if subscriber.position is not start and subscriber.position != start:
                counted += 1
                subscriber.unpark(None)  # has the batch already, or missed an earlier one
                continue
            subscriber.position = end
            if size:
                try:
                    sent = subscriber.client_socket.send(chunk)
                except OSError:  # its buffer is full, or the client has gone: `unpark` finds out
                    sent = 0
                if sent != size:
                    PARTIAL_SENDS.add()
                    subscriber.unpark(memoryview(chunk)[sent:])
            elif not is_over:
                continue
            if is_over:  # at once: a batch that is delivered meanwhile is of the next answer
                subscriber.end("ended")
            if number % MAX_SENDS_IN_A_ROW == 0:
                if size:
                    count_sent(encoded, size, number - counted)
                    counted = number
                time.sleep(0)
        if size:
            self.last_sent = time.monotonic()
            count_sent(encoded, size, number - counted)

    def _chunk(self, encoded: Encoded, batch: Batch) -> bytes:
        """Return the bytes to send, with a progress event where one is due."""
        if not self.progress.add(encoded, batch.end):
            return encoded.chunk
        event = self.stream_format.wire.frame(progress_frame(self._run_id, batch.end.id))
        return encoded.chunk + (http_chunk(event) if self.chunked else event)

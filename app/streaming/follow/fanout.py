"""The fanout: one loop that writes a feed's batches to every parked subscriber."""

import time
from typing import Protocol

from ..event_id import EventId
from ..wire.formats import StreamFormat
from ..wire.frame_batch import FrameBatch
from .client_socket import ClientSocket

# After this many sockets the loop gives way to appends, health checks and other feeds.
MAX_SENDS_IN_A_ROW = 256


class ParkedSubscriber(Protocol):
    """What a fanout needs of a subscriber."""

    cursor: EventId
    client_socket: ClientSocket

    def unpark(self, unsent: memoryview | None) -> None:
        """Leave the fanout: write `unsent`, catch up with the feed, and park again."""


class Fanout:
    """The parked subscribers of a feed that get the same bytes: one stream format, one framing.

    A parked subscriber has no greenlet. It is up to date, and the fanout writes what comes next
    straight to its socket.

    Attributes:
        parked: the subscribers, each with the value of `events` when it parked.
        events: how many events were delivered.
        last_sent: when bytes were last sent, a monotonic time; 0 for never.
    """

    __slots__ = ("chunked", "events", "last_sent", "parked", "stream_format")

    def __init__(self, stream_format: StreamFormat, chunked: bool):
        self.stream_format = stream_format
        self.chunked = chunked
        self.parked: dict[ParkedSubscriber, int] = {}
        self.events = 0
        self.last_sent = 0.0

    def deliver(self, batch: FrameBatch) -> None:
        """Write a batch to every subscriber whose cursor is the start of the batch.

        This loop is the price of a delivered event. It checks the cursor, writes, and does
        nothing else. `send` never waits: a subscriber whose socket does not take every byte is
        unparked, and finishes in a greenlet of its own.

        While the loop gives way, a subscriber may leave, catch up and park again, or park for
        the first time. Its cursor tells whether it still needs the batch.
        """
        chunk, events = batch.encode(self.stream_format, self.chunked)
        self.events += events
        start, end, size = batch.start, batch.end, len(chunk)
        for number, subscriber in enumerate(list(self.parked), 1):
            if subscriber not in self.parked:
                continue  # left while the loop gave way
            if subscriber.cursor != start:
                if subscriber.cursor < end:
                    subscriber.unpark(None)  # missed an earlier batch
                continue  # has the batch already
            subscriber.cursor = end
            if not size:
                continue
            try:
                sent = subscriber.client_socket.send(chunk)
            except OSError:  # its buffer is full, or the client has gone: `unpark` finds out
                sent = 0
            if sent != size:
                subscriber.unpark(memoryview(chunk)[sent:])
            if number % MAX_SENDS_IN_A_ROW == 0:
                time.sleep(0)
        if size:
            self.last_sent = time.monotonic()

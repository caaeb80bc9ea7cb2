"""The feed: a run that this worker follows, its recent batches and its subscribers."""

import threading
import time
from collections import deque
from typing import Protocol

from app.streaming.event_id import ZERO, EventId
from app.streaming.outlet import Outlet
from app.streaming.sse import Batch, View

# What a feed keeps for subscribers that are a little behind; others read from the log.
RECENT_BATCHES = 256
RECENT_BYTES = 256 * 1024

# After so many sockets the others get their turn: appends, health checks, other feeds.
SENDS_IN_A_ROW = 256


class Follower(Protocol):
    """What a feed needs of a subscriber."""

    cursor: EventId
    view: View
    outlet: Outlet | None

    def wake(self) -> None:
        """There may be something new after the cursor, or the run may have ended."""

    def take_over(self, unsent: memoryview | None) -> None:
        """No longer parked: finish what was not sent, catch up, and come back."""


class Channel:
    """The parked subscribers of a feed who get the same bytes: one view, one framing.

    A parked subscriber has no greenlet: it is up to date, and what comes next is written
    straight to its socket. This loop is the price of a delivered event, so there is nothing
    in it but the write and the check of the cursor.
    """

    __slots__ = ("chunked", "events", "last_sent", "parked", "view")

    def __init__(self, view: View, chunked: bool):
        self.view = view
        self.chunked = chunked
        self.parked: dict[Follower, None] = {}
        self.events = 0
        self.last_sent = 0.0

    def deliver(self, batch: Batch) -> None:
        """Write a batch to all who stand where it begins, and send the others after it."""
        wire, events = batch.encode(self.view, self.chunked)
        self.events += events
        since, position, size = batch.since, batch.position, len(wire)
        for number, subscriber in enumerate(list(self.parked), 1):
            if subscriber not in self.parked:
                continue  # left while this loop gave way
            if subscriber.cursor != since:
                if subscriber.cursor < position:
                    subscriber.take_over(None)
                continue  # parked while this loop gave way
            subscriber.cursor = position
            if not size:
                continue
            try:
                sent = subscriber.outlet.send(wire)
            except OSError:  # its buffer is full, or it is gone: who takes over finds out
                sent = 0
            if sent != size:
                subscriber.take_over(memoryview(wire)[sent:])
            if number % SENDS_IN_A_ROW == 0:
                time.sleep(0)
        if size:
            self.last_sent = time.monotonic()


class Feed:
    """One run's batches from `floor` (exclusive) to `position` (inclusive), as they came.

    `position` is how far the log was read, `added` how many entries were added up to there
    at the least, `sequence` the number of the last one (in a log of Tailrace's alone the
    same), `ended` whether its last entry is terminal, `changed_at` (monotonic) when it was
    last seen to change. Readers are the only ones who
    publish. A subscriber asks for what is `after` its cursor, and parks when that is
    nothing. `epoch` counts how often the log was begun anew: a cursor of an earlier epoch
    means nothing in this one. `deleted` is the greatest id that was deleted out of the log.
    `pages` are what the history keeps of the log, as of `pages_edition`.
    """

    def __init__(self, run_id: str, position: EventId, sequence: int, ended: bool):
        self.run_id = run_id
        self.floor = self.position = position
        self.sequence = self.added = sequence
        self.ended = ended
        self.epoch = 0
        self.changed_at = time.monotonic()
        self._mark = 0, position  # in one piece, so that it is read without the lock
        self.deleted = ZERO
        self.pages: list[Batch] = []
        self.pages_edition = self.edition
        self.reading = threading.Lock()
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._subscribers: set[Follower] = set()
        self._awake: set[Follower] = set()
        self._channels: dict[tuple[View, bool], Channel] = {}
        self._lock = threading.Lock()

    @property
    def edition(self) -> tuple[int, EventId]:
        """What makes the log another one to replay."""
        return self.epoch, self.deleted

    # For subscribers

    def join(self, subscriber: Follower) -> None:
        with self._lock:
            self._subscribers.add(subscriber)
            self._awake.add(subscriber)

    def leave(self, subscriber: Follower) -> bool:
        """Let a subscriber go; True when it was the last."""
        with self._lock:
            self._subscribers.discard(subscriber)
            self._awake.discard(subscriber)
            return not self._subscribers

    def after(self, cursor: EventId, epoch: int) -> list[Batch] | None:
        """The batches after a cursor of an epoch, or None when they are not all here."""
        with self._lock:
            if epoch != self.epoch or cursor < self.floor:
                return None
            if cursor >= self.position:
                return []
            return [batch.after(cursor) for batch in self._batches if batch.position > cursor]

    def park(self, subscriber: Follower, epoch: int) -> Channel | None:
        """Let an up-to-date subscriber rest without a greenlet, unless it is not."""
        with self._lock:
            if epoch != self.epoch or subscriber.cursor != self.position or self.ended:
                return None
            key = subscriber.view, subscriber.outlet.chunked
            channel = self._channels.get(key)
            if channel is None:
                channel = self._channels[key] = Channel(*key)
            channel.parked[subscriber] = None
            self._awake.discard(subscriber)
            return channel

    def unpark(self, subscriber: Follower, channel: Channel) -> None:
        with self._lock:
            channel.parked.pop(subscriber, None)
            self._awake.add(subscriber)
            key = channel.view, channel.chunked
            if not channel.parked and self._channels.get(key) is channel:
                del self._channels[key]

    # For readers

    def mark(self) -> tuple[int, EventId]:
        """The epoch and the position, from which to read on."""
        return self._mark

    def publish(self, epoch: int, batch: Batch, sequence: int, ended: bool) -> None:
        """Take in and deliver what was read, unless the feed has moved on meanwhile."""
        with self._lock:
            if (epoch, batch.since) != (self.epoch, self.position):
                return
            self._batches.append(batch)
            self._bytes += batch.size
            self.position = batch.position
            self._mark = epoch, batch.position
            self.changed_at = time.monotonic()
            self.added += batch.events
            self.sequence = sequence
            self.ended = ended
            while len(self._batches) > RECENT_BATCHES or self._bytes > RECENT_BYTES:
                oldest = self._batches.popleft()
                self._bytes -= oldest.size
                self.floor = oldest.position
            channels = list(self._channels.values())
        for channel in channels:
            channel.deliver(batch)
        if ended:
            self._call_all()
        else:
            self._wake()

    def note_deleted(self, deleted: EventId) -> None:
        """Forget what may have been deleted out of the log meanwhile."""
        with self._lock:
            if deleted > self.deleted:
                self.deleted = deleted
                self._forget()

    def settle(self, position: EventId, added: int, ended: bool) -> None:
        """Correct what is known of a log at whose end the feed stands."""
        with self._lock:
            if position != self.position:
                return
            self.added, self.ended = added, ended
        if ended:
            self._call_all()

    def begin_anew(self, epoch: int) -> None:
        """Start over at the beginning of another log, unless that was done since `epoch`."""
        with self._lock:
            if epoch != self.epoch:
                return
            self.position = ZERO
            self.sequence, self.added, self.ended = 0, 0, False
            self.epoch += 1
            self._mark = self.epoch, ZERO
            self._forget()
        self._call_all()

    def forget(self) -> None:
        """Give back the memory of batches that every up-to-date subscriber has got."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._batches.clear()
        self._bytes = 0
        self.floor = self.position

    def _wake(self) -> None:
        if not self._awake:  # mostly so, and a lock costs more than that
            return
        with self._lock:
            awake = list(self._awake)
        for subscriber in awake:
            subscriber.wake()

    def _call_all(self) -> None:
        """Have every subscriber look for itself, the parked ones too."""
        self._wake()
        with self._lock:
            parked = [each for channel in self._channels.values() for each in channel.parked]
        for subscriber in parked:
            subscriber.take_over(None)

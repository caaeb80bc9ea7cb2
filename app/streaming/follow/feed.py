"""The feed: a run that this worker follows, its recent batches and its subscribers."""

import threading
import time
from collections import deque
from typing import Protocol

from ..event_id import ZERO, EventId
from ..wire.formats import FrameBatch, StreamFormat
from .client_socket import ClientSocket

# What a feed keeps for subscribers that are a little behind; others read from the log.
RECENT_BATCHES = 256
RECENT_BYTES = 256 * 1024

# After so many sockets the others get their turn: appends, health checks, other feeds.
SENDS_IN_A_ROW = 256


class Follower(Protocol):
    """What a feed needs of a subscriber."""

    cursor: EventId
    view: StreamFormat
    client_socket: ClientSocket | None

    def wake(self) -> None:
        """There may be something new after the cursor, or the run may have ended."""

    def unpark(self, unsent: memoryview | None) -> None:
        """No longer parked: finish what was not sent, catch up, and come back."""


class Fanout:
    """The parked subscribers of a feed who get the same bytes: one view, one framing.

    A parked subscriber has no greenlet: it is up to date, and what comes next is written
    straight to its socket. This loop is the price of a delivered event, so there is nothing
    in it but the write and the check of the cursor.
    """

    __slots__ = ("chunked", "events", "last_sent", "parked", "view")

    def __init__(self, view: StreamFormat, chunked: bool):
        self.view = view
        self.chunked = chunked
        self.parked: dict[Follower, None] = {}
        self.events = 0
        self.last_sent = 0.0

    def deliver(self, batch: FrameBatch) -> None:
        """Write a batch to all who stand where it begins, and send the others after it."""
        wire, events = batch.encode(self.view, self.chunked)
        self.events += events
        since, position, size = batch.since, batch.position, len(wire)
        for number, subscriber in enumerate(list(self.parked), 1):
            if subscriber not in self.parked:
                continue  # left while this loop gave way
            if subscriber.cursor != since:
                if subscriber.cursor < position:
                    subscriber.unpark(None)
                continue  # parked while this loop gave way
            subscriber.cursor = position
            if not size:
                continue
            try:
                sent = subscriber.client_socket.send(wire)
            except OSError:  # its buffer is full, or it is gone: who takes over finds out
                sent = 0
            if sent != size:
                subscriber.unpark(memoryview(wire)[sent:])
            if number % SENDS_IN_A_ROW == 0:
                time.sleep(0)
        if size:
            self.last_sent = time.monotonic()


class Feed:
    """One run's batches from `floor` (exclusive) to `position` (inclusive), as they came.

    `position` is how far the log was read, `added` how many entries were added up to there
    at the least, `sequence` the number of the last one (in a log of Tailrace's alone the
    same), `ended` whether its last entry is terminal, `changed_at` (monotonic) when it was
    last seen to change. ReaderPool are the only ones who
    publish. A subscriber asks for what is `after` its cursor, and parks when that is
    nothing. `epoch` counts how often the log was begun anew: a cursor of an earlier epoch
    means nothing in this one. `deleted` is the greatest id that was deleted out of the log.
    `pages` are what the history keeps of the log, as of `pages_version`.
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
        self.pages: list[FrameBatch] = []
        self.pages_version = self.version
        self.reading = threading.Lock()
        self._batches: deque[FrameBatch] = deque()
        self._bytes = 0
        self._subscribers: set[Follower] = set()
        self._awake: set[Follower] = set()
        self._fanouts: dict[tuple[StreamFormat, bool], Fanout] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> tuple[int, EventId]:
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

    def after(self, cursor: EventId, epoch: int) -> list[FrameBatch] | None:
        """The batches after a cursor of an epoch, or None when they are not all here."""
        with self._lock:
            if epoch != self.epoch or cursor < self.floor:
                return None
            if cursor >= self.position:
                return []
            return [batch.after(cursor) for batch in self._batches if batch.position > cursor]

    def park(self, subscriber: Follower, epoch: int) -> Fanout | None:
        """Let an up-to-date subscriber rest without a greenlet, unless it is not."""
        with self._lock:
            if epoch != self.epoch or subscriber.cursor != self.position or self.ended:
                return None
            key = subscriber.view, subscriber.client_socket.chunked
            fanout = self._fanouts.get(key)
            if fanout is None:
                fanout = self._fanouts[key] = Fanout(*key)
            fanout.parked[subscriber] = None
            self._awake.discard(subscriber)
            return fanout

    def unpark(self, subscriber: Follower, fanout: Fanout) -> None:
        with self._lock:
            fanout.parked.pop(subscriber, None)
            self._awake.add(subscriber)
            key = fanout.view, fanout.chunked
            if not fanout.parked and self._fanouts.get(key) is fanout:
                del self._fanouts[key]

    # For readers

    def mark(self) -> tuple[int, EventId]:
        """The epoch and the position, from which to read on."""
        return self._mark

    def publish(self, epoch: int, batch: FrameBatch, sequence: int, ended: bool) -> None:
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
            fanouts = list(self._fanouts.values())
        for fanout in fanouts:
            fanout.deliver(batch)
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

    def reset(self, epoch: int) -> None:
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
            parked = [each for fanout in self._fanouts.values() for each in fanout.parked]
        for subscriber in parked:
            subscriber.unpark(None)

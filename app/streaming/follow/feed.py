"""The feed: a run that this worker follows, with its recent batches and its subscribers."""

import threading
import time
from collections import deque
from typing import NamedTuple, Protocol

from ..event_id import ZERO, EventId
from ..log.log_state import LogState
from ..wire.formats import StreamFormat
from ..wire.frame import Frame
from ..wire.frame_batch import FrameBatch
from .fanout import Fanout, ParkedSubscriber

# How many batches and bytes a feed keeps for subscribers that are a little behind. Others read
# from the log.
MAX_RECENT_BATCHES = 256
MAX_RECENT_BYTES = 256 * 1024


class Position(NamedTuple):
    """How far a log was read: up to the event `id`, in the log of an epoch.

    The epoch counts how often the log was replaced by another one. An id of an earlier epoch
    means nothing in a later one.
    """

    epoch: int
    id: EventId


class FeedSubscriber(ParkedSubscriber, Protocol):
    """What a feed needs of a subscriber."""

    stream_format: StreamFormat

    def wake(self) -> None:
        """Look at the feed again: it has more events, has ended, or was reset."""


class Feed:
    """One run as this worker has read it, with the batches that subscribers may still need.

    Only readers publish. A subscriber asks for what comes after its cursor, and parks when
    there is nothing.

    Attributes:
        position: how far the log was read. It is replaced in one piece, so it is read without
            the lock, and two reads are compared by identity.
        floor: the id after which the recent batches begin (exclusive).
        added: how many entries were ever added to the log up to the position, at least.
        sequence: the sequence of the last event. In a log to which only Tailrace writes, it
            equals `added`.
        ended: whether the last entry is terminal.
        changed_at: when the log was last seen to change, a monotonic time.
        deleted: the greatest id that was deleted from the log.
        pages: the pages of this log that the history keeps, as of `pages_version`.
        reading: the lock under which the history reads a page of this log.
    """

    def __init__(self, run_id: str, last_id: EventId, sequence: int, ended: bool):
        """Begin a feed at the end of a log."""
        self.run_id = run_id
        self.position = Position(0, last_id)
        self.floor = last_id
        self.sequence = self.added = sequence
        self.ended = ended
        self.changed_at = time.monotonic()
        self.deleted = ZERO
        self.pages: list[FrameBatch] = []
        self.pages_version = self.version
        self.reading = threading.Lock()
        self._batches: deque[FrameBatch] = deque()
        self._bytes = 0
        self._subscribers: set[FeedSubscriber] = set()
        self._awake: set[FeedSubscriber] = set()
        self._fanouts: dict[tuple[StreamFormat, bool], Fanout] = {}
        self._lock = threading.Lock()

    @property
    def epoch(self) -> int:
        """How often the log was replaced by another one."""
        return self.position.epoch

    @property
    def version(self) -> tuple[int, EventId]:
        """What changes when pages of the log that were read before must not be used again."""
        return self.position.epoch, self.deleted

    # For subscribers

    def join(self, subscriber: FeedSubscriber) -> None:
        """Add a subscriber, which is woken from now on."""
        with self._lock:
            self._subscribers.add(subscriber)
            self._awake.add(subscriber)

    def leave(self, subscriber: FeedSubscriber) -> bool:
        """Remove a subscriber; return whether it was the last one."""
        with self._lock:
            self._subscribers.discard(subscriber)
            self._awake.discard(subscriber)
            return not self._subscribers

    def after(self, cursor: EventId, epoch: int) -> list[FrameBatch] | None:
        """Return the batches after a cursor of an epoch, or None if some are not here any more."""
        with self._lock:
            position = self.position
            if epoch != position.epoch or cursor < self.floor:
                return None
            if cursor >= position.id:
                return []
            return [batch.after(cursor) for batch in self._batches if batch.end > cursor]

    def park(self, subscriber: FeedSubscriber, epoch: int) -> Fanout | None:
        """Park a subscriber, and return the fanout that writes to it from now on.

        Returns None, and parks nothing, if the subscriber is not up to date or the run has ended.
        """
        with self._lock:
            if (epoch, subscriber.cursor) != self.position or self.ended:
                return None
            key = subscriber.stream_format, subscriber.client_socket.chunked
            fanout = self._fanouts.get(key)
            if fanout is None:
                fanout = self._fanouts[key] = Fanout(*key)
            fanout.parked[subscriber] = fanout.events
            self._awake.discard(subscriber)
            return fanout

    def unpark(self, subscriber: FeedSubscriber, fanout: Fanout) -> int:
        """Take a subscriber out of its fanout; return how many events it got there."""
        with self._lock:
            events = fanout.events - fanout.parked.pop(subscriber, fanout.events)
            self._awake.add(subscriber)
            key = fanout.stream_format, fanout.chunked
            if not fanout.parked and self._fanouts.get(key) is fanout:
                del self._fanouts[key]
            return events

    # For readers

    def publish(self, position: Position, batch: FrameBatch, sequence: int, ended: bool) -> None:
        """Store and deliver a batch that was read from `position`.

        Does nothing if the feed has moved on since. `sequence` is that of the last event.
        """
        with self._lock:
            if position != self.position:
                return
            self._batches.append(batch)
            self._bytes += batch.size
            self.position = Position(position.epoch, batch.end)
            self.changed_at = time.monotonic()
            self.added += batch.events
            self.sequence = sequence
            self.ended = ended
            while len(self._batches) > MAX_RECENT_BATCHES or self._bytes > MAX_RECENT_BYTES:
                oldest = self._batches.popleft()
                self._bytes -= oldest.size
                self.floor = oldest.end
            fanouts = list(self._fanouts.values())
        for fanout in fanouts:
            fanout.deliver(batch)
        if ended:
            self._wake_all()
        else:
            self._wake()

    def check(self, position: Position, added: int, state: LogState) -> bool:
        """Compare with the state of the log; return whether the feed has read the whole log.

        `position` and `added` are the feed's from before the state was read. Another log resets
        the feed. If entries were deleted before they were read, subscribers get a gap notice.
        """
        self.note_deleted(state.deleted)
        continuity = state.continuity(position.id, added)
        if continuity == "reset":
            self.reset(position.epoch)
            return False
        if state.end_id is not None and state.end_id > position.id:
            return False  # the next XREAD returns these entries
        last_id = position.id
        if continuity == "gap":
            last_id = state.last_id
            data = state.control_data(str(position.id))
            gap = Frame.control(self.run_id, "gap", data, cursor=last_id)
            batch = FrameBatch(position.id, [gap])
            self.publish(position, batch, state.last_sequence, state.ended)
        self.settle(last_id, state.last_sequence, state.ended)
        self.forget()
        return True

    def note_deleted(self, deleted: EventId) -> None:
        """Forget the recent batches if an entry up to `deleted` was deleted since."""
        with self._lock:
            if deleted > self.deleted:
                self.deleted = deleted
                self._forget()

    def settle(self, last_id: EventId, added: int, ended: bool) -> None:
        """Correct `added` and `ended` from the log, if the feed stands at `last_id`, its end."""
        with self._lock:
            if last_id != self.position.id:
                return
            self.added, self.ended = added, ended
        if ended:
            self._wake_all()

    def reset(self, epoch: int) -> None:
        """Start at the beginning of another log; does nothing if `epoch` is over already."""
        with self._lock:
            if epoch != self.position.epoch:
                return
            self.position = Position(epoch + 1, ZERO)
            self.sequence, self.added, self.ended = 0, 0, False
            self._forget()
        self._wake_all()

    def forget(self) -> None:
        """Free the memory of the recent batches, which up-to-date subscribers do not need."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._batches.clear()
        self._bytes = 0
        self.floor = self.position.id

    def _wake(self) -> None:
        if not self._awake:  # the usual case, and a lock costs more than this check
            return
        with self._lock:
            awake = list(self._awake)
        for subscriber in awake:
            subscriber.wake()

    def _wake_all(self) -> None:
        """Wake every subscriber, and unpark those that are parked."""
        self._wake()
        with self._lock:
            parked = [each for fanout in self._fanouts.values() for each in fanout.parked]
        for subscriber in parked:
            subscriber.unpark(None)

"""The feed: a run that this worker follows, with its recent batches and its subscribers."""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from ..log.continuity import is_another_log
from ..log.log_state import LogState
from ..log.position import Position
from ..wire.formats import StreamFormat
from ..wire.frame_batch import FrameBatch, batches_from
from .fanout import Fanout, ParkedSubscriber, Sent

# How many batches and bytes a feed keeps for subscribers that are a little behind. Others read
# from the log.
MAX_RECENT_BATCHES = 256
MAX_RECENT_BYTES = 256 * 1024

# After this many fanouts, each of which encodes a batch for itself, others get their turn. So they
# do after this many subscribers were unparked.
MAX_FANOUTS_IN_A_ROW = 8
MAX_UNPARKED_IN_A_ROW = 64


class Listener(Protocol):
    """What a feed wakes when it has moved on."""

    @property
    def gets(self) -> str:
        """What its client gets: a content type, `page`, or `merged` with other runs."""

    def wake(self) -> None:
        """Look at the feed again: it has moved on, or has ended."""


class Tap(Protocol):
    """What gets all batches of a feed, for those who follow several runs."""

    def take(self, batch: FrameBatch) -> None:
        """Keep a batch. Batches come in order; the feed waits, so do nothing else."""

    def flush(self) -> None:
        """Deliver what was taken."""


class Sizes(NamedTuple):
    """What a feed holds: for how many it is, and the bytes of its recent batches and its pages.

    `viewers` are those who follow this run alone, by what they get: a content type, or `page`.
    `merged` follow several runs.
    """

    viewers: Mapping[str, int]
    merged: int
    recent_bytes: int
    pages: int
    pages_bytes: int


class FeedSubscriber(ParkedSubscriber, Listener, Protocol):
    """What a feed needs of a subscriber, to park it."""

    stream_format: StreamFormat


class Feed:
    """One run as this worker has read it, with the batches that subscribers may still need.

    Only readers publish. A subscriber asks for what comes after its position, and parks when
    there is nothing. Batches follow one another: each starts at the position, the very same
    object, where the one before it ends.

    Attributes:
        position: how far the log was read. It is replaced in one piece, so it is read without
            the lock, and two reads are compared by identity.
        ended: whether the last entry is terminal.
        changed_at: when the log was last seen to change, a monotonic time.
        version: that of the log (see LogState), as far as this worker knows.
        version_changes: how often the version was seen to change. Two states may be noted in the
            wrong order, so an old version does not say that nothing has changed.
        pages: the pages of this log that the history keeps, as of `pages_changes`.
        reading: the lock under which the history reads a page of this log.
    """

    def __init__(self, run_id: str, state: LogState):
        """Begin a feed at the end of a log."""
        self.run_id = run_id
        self.position = state.end
        self.ended = state.ended
        self.changed_at = time.monotonic()
        self.version = state.version
        self.version_changes = self.pages_changes = 0
        self.pages: list[FrameBatch] = []
        self.reading = threading.Lock()
        self._batches: deque[FrameBatch] = deque()
        self._bytes = 0
        self._listeners: set[Listener] = set()
        self._awake: set[Listener] = set()
        self._fanouts: dict[tuple[StreamFormat, bool], Fanout] = {}
        self._taps: list[Tap] = []
        self._lock = threading.Lock()

    # For subscribers

    def join(self, listener: Listener, state: LogState) -> None:
        """Add a listener, which is woken from now on, and which has read the log's state."""
        with self._lock:
            self._listeners.add(listener)
            self._awake.add(listener)
        if self.is_at(state.end):
            self._set_ended(state.ended)  # the terminal event may have been deleted
        self.note_version(state)

    def leave(self, listener: Listener) -> bool:
        """Remove a listener; return whether it was the last one."""
        with self._lock:
            self._listeners.discard(listener)
            self._awake.discard(listener)
            return not self._listeners

    def is_at(self, position: Position) -> bool:
        """Return whether the feed has nothing after a position.

        A gap may change nothing but the sequence.
        """
        return self.position.is_same_place(position)

    def is_behind(self, position: Position) -> bool:
        """Return whether the reader may still have to read up to a position."""
        mine = self.position
        return (position.epoch == mine.epoch and position.id > mine.id) or (
            mine.is_start and not position.is_start
        )

    def after(self, position: Position) -> list[FrameBatch]:
        """Return the batches after a position, none if they are not here."""
        found: list[FrameBatch] = []
        with self._lock:
            for batch in reversed(self._batches):
                rest = batch.after(position)
                if rest is not None:
                    return [rest, *reversed(found)]
                found.append(batch)
        return []

    def park(self, subscriber: FeedSubscriber) -> Fanout | None:
        """Park a subscriber, and return the fanout that writes to it from now on.

        Returns None, and parks nothing, if the subscriber is not up to date or the run has ended.
        """
        with self._lock:
            if not self.is_at(subscriber.position) or self.ended:
                return None
            subscriber.position = self.position
            key = subscriber.stream_format, subscriber.client_socket.chunked
            fanout = self._fanouts.get(key)
            if fanout is None:
                fanout = self._fanouts[key] = Fanout(self.run_id, *key)
            fanout.parked[subscriber] = fanout.sent
            self._awake.discard(subscriber)
            return fanout

    def unpark(self, subscriber: FeedSubscriber, fanout: Fanout) -> Sent:
        """Take a subscriber out of its fanout; return how much it got there."""
        with self._lock:
            sent = fanout.sent_since(fanout.parked.pop(subscriber, fanout.sent))
            self._awake.add(subscriber)
            key = fanout.stream_format, fanout.chunked
            if not fanout.parked and self._fanouts.get(key) is fanout:
                del self._fanouts[key]
            return sent

    def mute(self, listener: Listener) -> None:
        """Wake a listener no longer, since a tap tells what it waits for."""
        with self._lock:
            self._awake.discard(listener)

    def unmute(self, listener: Listener) -> None:
        """Wake a listener again."""
        with self._lock:
            self._awake.add(listener)

    def tap(self, tap: Tap) -> Position:
        """Give a tap all batches after the position that is returned."""
        with self._lock:
            self._taps.append(tap)
            return self.position

    def untap(self, tap: Tap) -> None:
        """Give a tap no more batches."""
        with self._lock:
            self._taps.remove(tap)

    # For readers

    def publish(self, batch: FrameBatch, ended: bool) -> None:
        """Store and deliver what the log has after the position; `ended`: whether it ends there.

        Does nothing if the feed has moved on since the batch was read. The caller then calls
        `flush`, once for all that was published together.
        """
        with self._lock:
            if batch.start is not self.position:
                return
            self.position = batch.end
            self.ended = ended
            if batch.events:
                self.changed_at = time.monotonic()
            self._batches.append(batch)
            self._bytes += batch.size
            while len(self._batches) > MAX_RECENT_BATCHES or self._bytes > MAX_RECENT_BYTES:
                self._bytes -= self._batches.popleft().size
            for tap in self._taps:
                tap.take(batch)
            fanouts = list(self._fanouts.values())
        for number, fanout in enumerate(fanouts, 1):
            fanout.deliver(batch)
            if number % MAX_FANOUTS_IN_A_ROW == 0:
                time.sleep(0)
        if ended:
            self._wake_all()
        else:
            self._wake()

    def flush(self) -> None:
        """Let the taps deliver what they have taken."""
        if self._taps:
            for number, tap in enumerate(list(self._taps), 1):
                tap.flush()
                if number % MAX_FANOUTS_IN_A_ROW == 0:
                    time.sleep(0)

    def sizes(self) -> Sizes:
        """Return what the feed holds."""
        with self._lock:
            kinds = Counter([each.gets for each in self._listeners])
            recent, pages = self._bytes, self.pages
        merged = kinds.pop("merged", 0)
        return Sizes(kinds, merged, recent, len(pages), sum([page.cost for page in pages]))

    def check(self, position: Position, state: LogState) -> bool:
        """Compare with the state of the log; return whether the feed has read the whole log.

        `position` is the feed's from before the state was read. What the state says is
        published: the log was replaced, or entries were deleted before they were read.
        """
        self.note_version(state)
        has_more = state.end_id is not None and state.end_id > position.id
        if has_more and not is_another_log(position, state):
            return False  # the next XREAD returns these entries
        for batch in self.go_on(position, [], state, whole=True):
            self.publish(batch, state.ended and batch.end == state.end)
        if not self.is_at(state.end):
            return False
        self._set_ended(state.ended)
        self._forget()
        return True

    def go_on(
        self, position: Position, entries: list[Any], state: LogState, *, whole: bool
    ) -> list[FrameBatch]:
        """Return how the log goes on from a position; see `batches_from`.

        Forget what is in memory if the log was replaced by another one, or by an older state of
        its own, which its version does not tell.
        """
        self.note_version(state)
        batches = batches_from(self.run_id, position, entries, state, whole=whole)
        if batches and batches[0].is_reset and position.epoch == state.epoch:
            self.version_changes += 1
            self._forget()
        return batches

    def _set_ended(self, ended: bool) -> None:
        with self._lock:
            was_ended, self.ended = self.ended, ended
        if ended and not was_ended:
            self._wake_all()

    def note_version(self, state: LogState) -> None:
        """Forget what is in memory if entries of it were deleted since it was read."""
        if state.version != self.version:
            self.version = state.version
            self.version_changes += 1
            self._forget()
        with self._lock:
            if not state.exists and self.position.is_start:
                # What a reader has read from here, but not published yet, is of a log that is
                # gone. `publish` refuses it, since the position is another object now.
                self.position = Position(*self.position)

    def _forget(self) -> None:
        """Free the memory of the recent batches, which up-to-date subscribers do not need."""
        with self._lock:
            self._batches.clear()
            self._bytes = 0

    def _wake(self) -> None:
        if not self._awake:  # the usual case, and a lock costs more than this check
            return
        with self._lock:
            awake = list(self._awake)
        for listener in awake:
            listener.wake()

    def _wake_all(self) -> None:
        """Wake every subscriber, and unpark those that are parked."""
        self._wake()
        with self._lock:
            parked = [(each, fanout) for fanout in self._fanouts.values() for each in fanout.parked]
        for number, (subscriber, fanout) in enumerate(parked, 1):
            if subscriber in fanout.parked:  # else it left while others had their turn
                subscriber.unpark(None)
            if number % MAX_UNPARKED_IN_A_ROW == 0:
                time.sleep(0)
        self.flush()

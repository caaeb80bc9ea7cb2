"""The feed: a run that this worker follows, its recent frames and its subscribers."""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol

from app.streaming.event_id import ZERO, EventId
from app.streaming.sse import Frame

# What a feed keeps for subscribers that are a little behind; others read from the log.
RECENT_FRAMES = 512
RECENT_BYTES = 1024 * 1024

_position_of = attrgetter("position")


class Follower(Protocol):
    """What a feed needs of a subscriber."""

    def wake(self) -> None: ...


class Feed:
    """One run's frames from `floor` (exclusive) to `position` (inclusive), as they came.

    `position` is how far the log was read, `sequence` how many entries were ever added up
    to there, `ended` whether its last entry is terminal. A reader is the only one who
    publishes; subscribers ask for what is `after` their cursor. `epoch` counts how often
    the log was begun anew: cursors of an earlier epoch mean nothing in this one.
    """

    def __init__(self, run_id: str, position: EventId, sequence: int, ended: bool):
        self.run_id = run_id
        self.floor = self.position = position
        self.sequence = sequence
        self.ended = ended
        self.epoch = 0
        self._frames: list[Frame] = []
        self._bytes = 0
        self._subscribers: set[Follower] = set()
        self._lock = threading.Lock()

    def join(self, subscriber: Follower) -> None:
        with self._lock:
            self._subscribers.add(subscriber)

    def leave(self, subscriber: Follower) -> bool:
        """Let a subscriber go; True when it was the last."""
        with self._lock:
            self._subscribers.discard(subscriber)
            return not self._subscribers

    def after(self, cursor: EventId, epoch: int) -> list[Frame] | None:
        """The frames after a cursor of an epoch, or None when they are not all here."""
        with self._lock:
            if epoch != self.epoch or cursor < self.floor:
                return None
            return self._frames[bisect_right(self._frames, cursor, key=_position_of) :]

    def mark(self) -> tuple[int, EventId]:
        """The epoch and the position, from which to read on."""
        with self._lock:
            return self.epoch, self.position

    def publish(
        self, since: tuple[int, EventId], frames: Sequence[Frame], sequence: int, ended: bool
    ) -> None:
        """Take in what was read after the mark `since`, unless the feed has moved on from it."""
        with self._lock:
            if since != (self.epoch, self.position):
                return
            self._frames.extend(frames)
            self._bytes += sum(len(frame.json) for frame in frames)
            self.position = frames[-1].position
            self.sequence = sequence
            self.ended = ended
            self._forget_oldest()
        self.wake()

    def settle(self, position: EventId, ended: bool) -> None:
        """Correct whether the run is ended, for a log at whose end the feed stands."""
        with self._lock:
            if position != self.position:
                return
            self.ended = ended
        if ended:
            self.wake()

    def begin_anew(self, epoch: int) -> None:
        """Start over at the beginning of another log, unless that was done since `epoch`."""
        with self._lock:
            if epoch != self.epoch:
                return
            self._frames.clear()
            self._bytes = 0
            self.floor = self.position = ZERO
            self.sequence, self.ended = 0, False
            self.epoch += 1
        self.wake()

    def forget(self) -> None:
        """Give back the memory of frames that every up-to-date subscriber has got."""
        with self._lock:
            self._frames.clear()
            self._bytes = 0
            self.floor = self.position

    def wake(self) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            subscriber.wake()

    def _forget_oldest(self) -> None:
        drop = max(0, len(self._frames) - RECENT_FRAMES)
        kept = self._bytes - sum(len(frame.json) for frame in self._frames[:drop])
        while kept > RECENT_BYTES and drop < len(self._frames):
            kept -= len(self._frames[drop].json)
            drop += 1
        if drop:
            self.floor = self._frames[drop - 1].position
            self._bytes = kept
            del self._frames[:drop]

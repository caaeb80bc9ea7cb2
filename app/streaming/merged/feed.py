"""The merged feed: the feeds of several runs as one, for subscribers that follow all of them."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from ..feeds.fanout import Fanout, ParkedSubscriber, Sent
from ..feeds.feed import MAX_FANOUTS_IN_A_ROW, Feed, FeedSubscriber
from ..log.position import Position
from ..wire.formats import StreamFormat
from ..wire.frame_batch import FrameBatch
from .batch import Gatherer, MergedBatch, MergedPosition
from .cursor import RunList


class MergedFeeds:
    """The merged feeds of a worker, one for each list of runs that has parked subscribers."""

    def __init__(self) -> None:
        self._feeds: dict[RunList, MergedFeed] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._feeds)

    def park(
        self, subscriber: FeedSubscriber, runs: RunList, feeds: Sequence[Feed]
    ) -> Fanout | None:
        """Park a subscriber of the feeds of some runs; see `Feed.park`."""
        with self._lock:
            merged = self._feeds.get(runs) or MergedFeed(runs, feeds)
            fanout = merged.park(subscriber)
            if fanout is not None:
                self._feeds[runs] = merged
            elif runs not in self._feeds:
                merged.close()
        return fanout

    def unpark(self, subscriber: FeedSubscriber, runs: RunList, fanout: Fanout) -> Sent:
        """Take a subscriber out of its fanout; return how much it got there."""
        with self._lock:
            merged = self._feeds[runs]
            sent = merged.unpark(subscriber, fanout)
            if not merged.has_parked:
                del self._feeds[runs]
                merged.close()
        return sent


class MergedFeed:
    """What the feeds of some runs publish, as merged batches that follow one another.

    It taps the feeds, which put their batches here, each feed in order. What they have published
    together is delivered together, when their reader flushes them.
    """

    def __init__(self, runs: RunList, feeds: Sequence[Feed]):
        self._feeds = feeds
        self._taken: deque[tuple[int, FrameBatch]] = deque()
        self._taps = [Tap(self, run) for run in range(len(feeds))]
        tapped = zip(feeds, self._taps, strict=True)
        # The gatherer's position is that up to which all was delivered, or is about to be.
        position = MergedPosition.of(runs, [feed.tap(tap) for feed, tap in tapped])
        self._gatherer = Gatherer(position)
        self._fanouts: dict[tuple[StreamFormat, bool], Fanout] = {}
        self._lock = threading.Lock()
        self._delivering = threading.Lock()

    @property
    def has_parked(self) -> bool:
        return bool(self._fanouts)

    @property
    def has_ended(self) -> bool:
        """Whether all runs have ended."""
        return all(feed.ended for feed in self._feeds)

    def close(self) -> None:
        """Tap the feeds no longer."""
        for feed, tap in zip(self._feeds, self._taps, strict=True):
            feed.untap(tap)

    def park(self, subscriber: FeedSubscriber) -> Fanout | None:
        """Park a subscriber that is up to date with all feeds; see `Feed.park`.

        If batches wait to be delivered, it is unparked by the first of them, and parks again.
        """
        with self._lock:
            if not self._is_at(subscriber.position) or self.has_ended:
                return None
            if not self._taken:
                subscriber.position = self._gatherer.position
            key = subscriber.stream_format, subscriber.client_socket.chunked
            fanout = self._fanouts.get(key)
            if fanout is None:
                fanout = self._fanouts[key] = Fanout("", *key)
            fanout.parked[subscriber] = fanout.sent
            return fanout

    def unpark(self, subscriber: FeedSubscriber, fanout: Fanout) -> Sent:
        """Take a subscriber out of its fanout; return how much it got there."""
        with self._lock:
            sent = fanout.sent_since(fanout.parked.pop(subscriber, fanout.sent))
            key = fanout.stream_format, fanout.chunked
            if not fanout.parked and self._fanouts.get(key) is fanout:
                del self._fanouts[key]
            return sent

    def take(self, run: int, batch: FrameBatch) -> None:
        """Keep a batch of a run until the next flush."""
        self._taken.append((run, batch))

    def flush(self) -> None:
        """Deliver what was taken. One caller does it, for all who come meanwhile."""
        while self._taken and self._delivering.acquire(blocking=False):
            try:
                while self._taken:
                    self._deliver(self._gather())
            finally:
                self._delivering.release()
        if self.has_ended:
            self._unpark_all()

    def _gather(self) -> MergedBatch:
        """Return the next batch of what was taken."""
        with self._lock:
            moved: dict[int, Position] = {}
            while self._taken and not self._gatherer.is_full:
                run, batch = self._taken.popleft()
                self._gatherer.add(run, batch)
                moved[run] = batch.end
            return self._gatherer.take(self._gatherer.position.moved(moved))

    def _deliver(self, batch: MergedBatch) -> None:
        for number, fanout in enumerate(list(self._fanouts.values()), 1):
            fanout.deliver(batch)
            if number % MAX_FANOUTS_IN_A_ROW == 0:
                time.sleep(0)

    def _is_at(self, position: MergedPosition) -> bool:
        """Return whether the feeds have published nothing after a position."""
        published = list(self._gatherer.position.positions)
        for run, batch in list(self._taken):
            published[run] = batch.end
        pairs = zip(published, position.positions, strict=True)
        return all(mine.is_same_place(its) for mine, its in pairs)

    def _unpark_all(self) -> None:
        with self._lock:
            fanouts = list(self._fanouts.values())
            parked: list[tuple[ParkedSubscriber, Fanout]] = [
                (each, fanout) for fanout in fanouts for each in fanout.parked
            ]
        for subscriber, fanout in parked:
            if subscriber in fanout.parked:  # else it left while others had their turn
                subscriber.unpark(None)
            time.sleep(0)  # each leaves all feeds


class Tap:
    """What one feed puts its batches into."""

    __slots__ = ("_merged", "_run")

    def __init__(self, merged: MergedFeed, run: int):
        self._merged = merged
        self._run = run

    def take(self, batch: FrameBatch) -> None:
        """Keep a batch until the next flush."""
        self._merged.take(self._run, batch)

    def flush(self) -> None:
        """Deliver what was taken."""
        self._merged.flush()

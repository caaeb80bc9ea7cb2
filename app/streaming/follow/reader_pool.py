"""The readers of a worker: its feeds are spread over as few of them as their number needs."""

import threading
from collections.abc import Callable

from ..event_id import EventId
from ..event_store import EventStore
from ..log.log_state import LogState
from .feed import Feed, Follower
from .tail_reader import GROUP_SIZE, TailReader
from .waker import Waker


class ReaderPool:
    """All feeds of this worker, spread over as few readers as their number needs."""

    def __init__(
        self,
        store: EventStore,
        flush_seconds: float = 0.016,
        dropped: Callable[[Feed], None] = lambda feed: None,
    ):
        """`dropped` is called with every feed that nobody watches any more."""
        self._store = store
        self._flush_seconds = flush_seconds
        self._dropped = dropped
        self._feeds: dict[str, tuple[Feed, TailReader]] = {}
        self._readers: list[TailReader] = []
        self._waker = Waker(store)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._feeds)

    def mark(self, run_id: str) -> tuple[int, EventId] | None:
        """The mark of a run's feed, None where it has none."""
        with self._lock:
            feed, _ = self._feeds.get(run_id, (None, None))
            return feed.mark() if feed else None

    def join(
        self,
        run_id: str,
        mark: tuple[int, EventId] | None,
        state: LogState,
        subscriber: Follower,
    ) -> Feed:
        """Let a subscriber join its run's feed, which begins at `state` if it is new.

        `mark` is the feed's from before `state` was asked for.
        """
        with self._lock:
            if run_id not in self._feeds:
                self._place(Feed(run_id, state.last_id, state.last_sequence, state.ended))
            feed, _ = self._feeds[run_id]
            feed.join(subscriber)
        if mark is not None and state.continuity(mark[1]) == "reset":
            feed.reset(mark[0])
            self.look_again(feed)
        feed.note_deleted(state.deleted)
        return feed

    def look_again(self, feed: Feed) -> None:
        """Have a feed's reader look at its log now: it seems to be another one."""
        with self._lock:
            _, reader = self._feeds.get(feed.run_id, (None, None))
        if reader is not None:
            reader.look_again()
            self._waker.wake(reader)

    def leave(self, feed: Feed, subscriber: Follower) -> None:
        """Let a subscriber leave; a feed that nobody watches any more is dropped."""
        with self._lock:
            if not feed.leave(subscriber) or self._feeds.get(feed.run_id, (None,))[0] is not feed:
                return
            _, reader = self._feeds.pop(feed.run_id)
            reader.remove(feed)
            self._shrink()
        self._dropped(feed)

    def _place(self, feed: Feed) -> None:
        reader = next((reader for reader in self._readers if len(reader) < GROUP_SIZE), None)
        if reader is None:
            reader = TailReader(self._store, self._flush_seconds)
            self._readers.append(reader)
        reader.add(feed)
        self._feeds[feed.run_id] = feed, reader
        self._waker.wake(reader)

    def _shrink(self) -> None:
        """Close the smallest reader when the others have room for its feeds.

        A feed may move at any time, since only what comes after its position is published.
        """
        if len(self._feeds) <= GROUP_SIZE * (len(self._readers) - 1):
            smallest = min(self._readers, key=len)
            self._readers.remove(smallest)
            for feed in smallest.take_all():
                self._place(feed)
            self._waker.wake(smallest)

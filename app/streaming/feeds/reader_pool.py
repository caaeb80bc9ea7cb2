"""The readers of a worker: its feeds are spread over as few readers as possible."""

import threading
from collections.abc import Callable

from ..event_store import EventStore
from ..log.log_state import LogState
from .feed import Feed, Listener
from .group_read import GROUP_SIZE
from .tail_reader import TailReader
from .waker import Waker


class ReaderPool:
    """All feeds of this worker, spread over as few readers as possible."""

    def __init__(
        self,
        store: EventStore,
        dropped: Callable[[Feed], None] = lambda feed: None,
    ):
        """`dropped` is called with every feed that the last listener has left."""
        self._store = store
        self._dropped = dropped
        self._feeds: dict[str, tuple[Feed, TailReader]] = {}
        self._readers: list[TailReader] = []
        self._waker = Waker(store)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return len(self._readers)

    def join(self, run_id: str, state: LogState, listener: Listener) -> Feed:
        """Add a listener to its run's feed, and return the feed.

        A new feed begins at the end of the log as `state` gives it.
        """
        with self._lock:
            if run_id not in self._feeds:
                self._place(Feed(run_id, state))
            feed, _ = self._feeds[run_id]
            feed.join(listener, state)
        if feed.position.epoch != state.epoch and not feed.position.is_start:
            self.check_now(feed)
        return feed

    def feeds(self) -> list[tuple[Feed, int]]:
        """Return the feeds by the ids of their runs, each with the number of its reader."""
        with self._lock:
            numbers = {reader: number for number, reader in enumerate(self._readers)}
            return [
                (feed, numbers[reader])
                for _, (feed, reader) in sorted(self._feeds.items(), key=lambda item: item[0])
            ]

    def check_now(self, feed: Feed) -> None:
        """Let a feed's reader check its log now, since it seems to be another log."""
        with self._lock:
            entry = self._feeds.get(feed.run_id)
        if entry is not None:
            _, reader = entry
            reader.check_now()
            self._waker.wake(reader)

    def leave(self, feed: Feed, listener: Listener) -> None:
        """Remove a listener; a feed that the last one leaves is dropped."""
        with self._lock:
            if not feed.leave(listener):
                return
            entry = self._feeds.get(feed.run_id)
            if entry is None or entry[0] is not feed:
                return
            del self._feeds[feed.run_id]
            entry[1].remove(feed)
            self._shrink()
        self._dropped(feed)

    def _place(self, feed: Feed) -> None:
        reader = next((reader for reader in self._readers if len(reader) < GROUP_SIZE), None)
        if reader is None:
            reader = TailReader(self._store, self._waker.wake)
            self._readers.append(reader)
        reader.add(feed)
        self._feeds[feed.run_id] = feed, reader
        self._waker.wake(reader)

    def _shrink(self) -> None:
        """Close the smallest reader if the others have room for its feeds.

        A feed may move at any time, since it accepts only what was read from its position.
        """
        if len(self._feeds) <= GROUP_SIZE * (len(self._readers) - 1):
            smallest = min(self._readers, key=len)
            self._readers.remove(smallest)
            for feed in smallest.remove_all():
                self._place(feed)
            self._waker.wake(smallest)

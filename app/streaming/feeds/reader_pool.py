"""The readers of a worker: each of its feeds has one."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from ..event_store import EventStore
from ..log.log_state import LogState
from .feed import Feed, Listener


class Reader(Protocol):
    """What publishes what is new in the logs of some feeds."""

    def remove(self, feed: Feed) -> None:
        """Stop following a feed."""

    def check_now(self) -> None:
        """Check the logs before they are read again."""

    def wake(self) -> None:
        """Look again at what is to be done."""


class ReaderPool(ABC):
    """All feeds of this worker, and their readers."""

    def __init__(
        self,
        store: EventStore,
        dropped: Callable[[Feed], None] = lambda feed: None,
    ):
        """`dropped` is called with every feed that the last listener has left."""
        self._store = store
        self._dropped = dropped
        self._feeds: dict[str, tuple[Feed, Reader]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    @abstractmethod
    def readers(self) -> int:
        """How many readers there are."""

    def join(self, run_id: str, state: LogState, listener: Listener) -> Feed:
        """Add a listener to its run's feed, and return the feed.

        A new feed begins at the end of the log as `state` gives it.
        """
        with self._lock:
            if run_id not in self._feeds:
                feed = Feed(run_id, state)
                self._feeds[run_id] = feed, self._place(feed)
            feed, _ = self._feeds[run_id]
            feed.join(listener, state)
        if feed.position.epoch != state.epoch and not feed.position.is_start:
            self.check_now(feed)
        return feed

    def feeds(self) -> list[tuple[Feed, int]]:
        """Return the feeds by the ids of their runs, each with the number of its reader."""
        with self._lock:
            numbers: dict[Reader, int] = {}
            return [
                (feed, numbers.setdefault(reader, len(numbers)))
                for _, (feed, reader) in sorted(self._feeds.items(), key=lambda item: item[0])
            ]

    def check_now(self, feed: Feed) -> None:
        """Let a feed's reader check its log now, since it seems to be another log."""
        with self._lock:
            entry = self._feeds.get(feed.run_id)
        if entry is not None:
            _, reader = entry
            reader.check_now()
            reader.wake()

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

    @abstractmethod
    def _place(self, feed: Feed) -> Reader:
        """Have a reader follow a feed, and return it. Called under the lock."""

    @abstractmethod
    def _shrink(self) -> None:
        """Close readers that are not needed. Called under the lock."""

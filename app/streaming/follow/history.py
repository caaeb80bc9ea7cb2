"""History in memory: pages of frames that were read from the logs, shared by all subscribers.

A thousand clients that reconnect to one run cost one reading and one encoding.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict

from ...metrics.catalog import HISTORY_PAGES
from ..event_id import EventId
from ..event_store import EventStore
from ..feeds.feed import Feed
from ..log.position import Position
from ..log.reader import INITIAL_COUNT, next_count
from ..wire.frame_batch import FrameBatch, batches_after

# How many bytes all pages of a worker may take together.
MAX_BYTES = 64 * 1024 * 1024

# Above every sequence.
MAX_SEQUENCE = 2**64

_FROM_MEMORY, _FROM_REDIS = HISTORY_PAGES.of("memory"), HISTORY_PAGES.of("redis")


def _order(page: FrameBatch) -> tuple[EventId, int]:
    """Return where a page stands among the others. After a gap two begin at the same id."""
    return page.start.id, page.start.sequence or 0


class History:
    """The pages of all feeds of a worker; the least recently used page is dropped first."""

    def __init__(self, store: EventStore, max_bytes: int = MAX_BYTES):
        self._store = store
        self._max_bytes = max_bytes
        self._pages: OrderedDict[FrameBatch, Feed] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """About how much memory all pages take."""
        return self._bytes

    def after(self, feed: Feed, position: Position, end: EventId) -> list[FrameBatch]:
        """Return how the log goes on from a position, as batches that follow one another.

        There is one batch from memory, or as many as one read gives, notices included. There is
        none if the position is at the end of the log. Where entries alone prove that they follow
        the position, only those up to the id `end` are read. Raises NotALog and StoreUnavailable.
        """
        with feed.reading:  # one caller reads the page, and the callers that waited find it
            with self._lock:
                before, following = self._neighbours(feed, position)
            rest = before.after(position) if before is not None else None
            if rest is not None:
                _FROM_MEMORY.add()
                return [rest]
            _FROM_REDIS.add()
            count = INITIAL_COUNT
            if before is not None and before.events:
                count = next_count(before.size, before.events)
            stop = min(end, following.start.id) if following else end
            entries, is_here = self._store.entries_after(feed.run_id, position, stop, count)
            pages = batches_after(feed.run_id, position, entries) if entries and is_here else []
            for page in pages:
                self._keep(feed, page)
            return pages or self._read_with_state(feed, position, count)

    def drop(self, feed: Feed) -> None:
        """Drop all pages of a feed."""
        with self._lock:
            self._drop_all(feed)

    def _read_with_state(self, feed: Feed, position: Position, count: int) -> list[FrameBatch]:
        count += 1  # for the entry at the position itself
        entries, state = self._store.read(feed.run_id, position.id, count)
        batches = feed.go_on(position, entries, state, whole=len(entries) < count)
        for batch in batches:
            if (batch.events or batch.is_gap) and None not in (
                batch.start.sequence,
                batch.end.sequence,
            ):
                self._keep(feed, batch)
        return batches

    def _neighbours(
        self, feed: Feed, position: Position
    ) -> tuple[FrameBatch | None, FrameBatch | None]:
        """Return the page that begins at or before a position, and the page after it.

        Call it under the lock.
        """
        if feed.pages_changes != feed.version_changes:
            self._drop_all(feed)
            feed.pages_changes = feed.version_changes
        sequence = MAX_SEQUENCE if position.sequence is None else position.sequence
        index = bisect_right(feed.pages, (position.id, sequence), key=_order)
        before = feed.pages[index - 1] if index else None
        if before is not None:
            self._pages.move_to_end(before)
        return before, feed.pages[index] if index < len(feed.pages) else None

    def _keep(self, feed: Feed, page: FrameBatch) -> None:
        """Keep a page, unless it is known, or may hold entries that have been deleted since."""
        with self._lock:
            if feed.pages_changes != feed.version_changes or page.end.epoch != feed.version[0]:
                return
            index = bisect_right(feed.pages, _order(page), key=_order)
            if index and (
                feed.pages[index - 1].end.id > page.start.id
                or feed.pages[index - 1].start == page.start
            ):
                return  # it was read again for the notice before it
            feed.pages.insert(index, page)
            self._pages[page] = feed
            self._bytes += page.cost
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._pages)))

    def _drop_all(self, feed: Feed) -> None:
        for page in list(feed.pages):
            self._drop(page)

    def _drop(self, page: FrameBatch) -> None:
        self._pages.pop(page).pages.remove(page)
        self._bytes -= page.cost

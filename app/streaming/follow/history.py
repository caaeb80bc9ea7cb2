"""History in memory: pages of frames that were read from the logs, shared by all who replay.

A thousand clients that reconnect to one run cost one reading and one encoding.
"""

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from operator import attrgetter

from ..event_id import EventId
from ..event_store import EventStore
from ..log.reader import INITIAL_COUNT, next_count
from ..wire.formats import FrameBatch
from ..wire.frame import Frame, frames_from
from .feed import Feed

# What all pages of a worker may hold together.
MAX_BYTES = 64 * 1024 * 1024

_since = attrgetter("since")


class History:
    """The pages of all feeds of a worker, the least recently used given up first."""

    def __init__(self, store: EventStore, max_bytes: int = MAX_BYTES):
        self._store = store
        self._max_bytes = max_bytes
        self._pages: OrderedDict[FrameBatch, Feed] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def page(
        self, feed: Feed, cursor: EventId, upto: EventId
    ) -> tuple[FrameBatch | None, EventId | None]:
        """The next events after a cursor, and the first id that the log retained then.

        The first id is only told of a page that was read just now; the batch is None where
        the log has nothing up to `upto`. Raises NotALog and StoreUnavailable.
        """
        with feed.reading:  # one reads a page, and those who waited for it find it
            while True:
                with self._lock:
                    before, following = self._neighbours(feed, cursor)
                if before is not None and cursor < before.position:
                    return before.after(cursor), None
                count = next_count(before.size, len(before.frames)) if before else INITIAL_COUNT
                end = min(upto, following.since) if following else upto
                entries, state = self._store.history(feed.run_id, cursor, end, count)
                frames = frames_from(feed.run_id, entries)
                first_id = state.first_id
                feed.note_deleted(state.deleted)
                with self._lock:
                    if frames:
                        return self._page_of(feed, cursor, frames, first_id), first_id
                    if end == upto:
                        return None, first_id
                    if following in self._pages:  # the log has nothing between the two
                        return following, first_id

    def drop(self, feed: Feed) -> None:
        """Give up all pages of a feed."""
        with self._lock:
            self._drop(feed)

    # Inside, under the lock

    def _neighbours(
        self, feed: Feed, cursor: EventId
    ) -> tuple[FrameBatch | None, FrameBatch | None]:
        """The pages that begin at or before a cursor, and after it."""
        if feed.pages_version != feed.version:
            self._drop(feed)
            feed.pages_version = feed.version
        place = bisect_right(feed.pages, cursor, key=_since)
        before = feed.pages[place - 1] if place else None
        if before is not None:
            self._pages.move_to_end(before)
        return before, feed.pages[place] if place < len(feed.pages) else None

    def _page_of(
        self, feed: Feed, cursor: EventId, frames: list[Frame], first_id: EventId | None
    ) -> FrameBatch:
        # What was trimmed is not told as if it had never been: the page begins after it.
        since = max(cursor, first_id.before()) if first_id else cursor
        page = FrameBatch(min(since, frames[0].position.before()), frames)
        if feed.pages_version == feed.version:
            self._keep(feed, page)
        return page

    def _drop(self, feed: Feed) -> None:
        for page in list(feed.pages):
            self._give_up(page)

    def _keep(self, feed: Feed, page: FrameBatch) -> None:
        insort(feed.pages, page, key=_since)
        self._pages[page] = feed
        self._bytes += page.cost
        while self._bytes > self._max_bytes:
            self._give_up(next(iter(self._pages)))

    def _give_up(self, page: FrameBatch) -> None:
        self._pages.pop(page).pages.remove(page)
        self._bytes -= page.cost

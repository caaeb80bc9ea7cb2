"""History in memory: pages of frames that were read from the logs, shared by all subscribers.

A thousand clients that reconnect to one run cost one reading and one encoding.
"""

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from operator import attrgetter

from ..event_id import EventId
from ..event_store import EventStore
from ..log.reader import INITIAL_COUNT, next_count
from ..wire.frame import Frame, frames_from
from ..wire.frame_batch import FrameBatch
from .feed import Feed

# How many bytes all pages of a worker may take together.
MAX_BYTES = 64 * 1024 * 1024

_start = attrgetter("start")


class History:
    """The pages of all feeds of a worker; the least recently used page is dropped first."""

    def __init__(self, store: EventStore, max_bytes: int = MAX_BYTES):
        self._store = store
        self._max_bytes = max_bytes
        self._pages: OrderedDict[FrameBatch, Feed] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def page(
        self, feed: Feed, cursor: EventId, end: EventId
    ) -> tuple[FrameBatch | None, EventId | None]:
        """Return the next frames after a cursor, and the first id that the log retained then.

        The batch is None if the log has nothing up to `end`. The first id is None if the page
        was in memory, or the log is empty. Raises NotALog and StoreUnavailable.
        """
        with feed.reading:  # one caller reads the page, and the callers that waited find it
            while True:
                with self._lock:
                    before, following = self._neighbours(feed, cursor)
                if before is not None and cursor < before.end:
                    return before.after(cursor), None
                count = next_count(before.size, len(before.frames)) if before else INITIAL_COUNT
                stop = min(end, following.start) if following else end
                entries, state = self._store.history(feed.run_id, cursor, stop, count)
                frames = frames_from(feed.run_id, entries)
                first_id = state.first_id
                feed.note_deleted(state.deleted)
                with self._lock:
                    if frames:
                        return self._page_of(feed, cursor, frames, first_id), first_id
                    if stop == end:
                        return None, first_id
                    if following in self._pages:  # the log has nothing between the two pages
                        return following, first_id

    def drop(self, feed: Feed) -> None:
        """Drop all pages of a feed."""
        with self._lock:
            self._drop_all(feed)

    # The methods below are called under the lock.

    def _neighbours(
        self, feed: Feed, cursor: EventId
    ) -> tuple[FrameBatch | None, FrameBatch | None]:
        """Return the page that begins at or before a cursor, and the page after it."""
        if feed.pages_version != feed.version:
            self._drop_all(feed)
            feed.pages_version = feed.version
        index = bisect_right(feed.pages, cursor, key=_start)
        before = feed.pages[index - 1] if index else None
        if before is not None:
            self._pages.move_to_end(before)
        return before, feed.pages[index] if index < len(feed.pages) else None

    def _page_of(
        self, feed: Feed, cursor: EventId, frames: list[Frame], first_id: EventId | None
    ) -> FrameBatch:
        # The page begins after what was trimmed, so that the next client to come to this gap
        # gets a notice too.
        start = max(cursor, first_id.before()) if first_id else cursor
        page = FrameBatch(min(start, frames[0].cursor.before()), frames)
        if feed.pages_version == feed.version:
            self._keep(feed, page)
        return page

    def _keep(self, feed: Feed, page: FrameBatch) -> None:
        insort(feed.pages, page, key=_start)
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

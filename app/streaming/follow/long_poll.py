"""The long poll: a request for a page that waits until the page has an event."""

import threading
import time
from typing import Any

from ..event_id import ZERO, EventId
from ..event_store import EventStore
from ..feeds.reader_pool import ReaderPool
from ..log.reader import Page


class LongPoll:
    """Waits for events of one run, as an open stream that ends with the first of them."""

    kind = "long poll"

    def __init__(self, run_id: str, store: EventStore, readers: ReaderPool):
        self.run_id = run_id
        self.reason: str | None = None
        self.events = 0
        self._store = store
        self._readers = readers
        self._woken = threading.Event()

    def wait(self, seconds: float, *, after: EventId | None, **selection: Any) -> Page:
        """Return a page as soon as it has an event, or the run has ended; else an empty one.

        It is empty too if the stream is ended before. For the keywords see `EventStore.page`.
        Raises NotALog and StoreUnavailable.
        """
        until = time.monotonic() + seconds
        feed = self._readers.join(self.run_id, self._store.state(self.run_id), self)
        try:
            while True:
                self._woken.clear()
                read_upto = feed.position.id
                page = self._store.page(self.run_id, after=after, **selection)
                left = until - time.monotonic()
                if not page.is_empty_end or left <= 0 or self.reason is not None:
                    break
                after = max(after or ZERO, read_upto)  # nothing up to there passes the filter
                self._woken.wait(left)
        finally:
            self._readers.leave(feed, self)
        self.events = len(page.events)
        self.reason = self.reason or "ended"
        return page

    def wake(self) -> None:
        """Look at the log again."""
        self._woken.set()

    def end(self, reason: str) -> None:
        """Answer soon, with what there is."""
        self.reason = self.reason or reason
        self._woken.set()

    def warn(self, seconds: int) -> None:
        """Do nothing: the answer comes soon, and the next request brings a token."""

    def cut(self) -> None:
        """Do nothing: `end` is enough."""

"""The long poll: a request for a page that waits until the page has an event."""

import threading
import time
from typing import Any

from ..backoff import Pace
from ..event_id import ZERO, EventId
from ..event_store import EventStore
from ..feeds.reader_pool import ReaderPool
from ..log.reader import Page
from .standing import Standing


class LongPoll:
    """Waits for events of one run, as an open stream that ends with the first of them."""

    kind = "long poll"
    gets = "page"

    def __init__(self, run_id: str, store: EventStore, readers: ReaderPool):
        self.run_id = run_id
        self.followed = (run_id,)
        self.reason: str | None = None
        self.events = 0
        self._cursor: str | None = None
        self._store = store
        self._readers = readers
        self._woken = threading.Event()
        self._pace = Pace()

    def wait(self, seconds: float, *, after: EventId | None, **selection: Any) -> Page:
        """Return a page as soon as it has an event, or the run has ended; else an empty one.

        The `next` of an empty page says how far it has looked for events that pass the filter. It
        is empty too if the stream is ended before. For the keywords see `EventStore.page`. Raises
        NotALog and StoreUnavailable.
        """
        until, asked = time.monotonic() + seconds, after
        feed = self._readers.join(self.run_id, self._store.state(self.run_id), self)
        try:
            while True:
                self._woken.clear()
                began, read_upto = time.monotonic(), feed.position.id
                page = self._store.page(self.run_id, after=after, **selection)
                left = until - time.monotonic()
                if page.events or page.is_last or left <= 0 or self.reason is not None:
                    break
                after = max(after or ZERO, page.next or read_upto)
                if page.next is None:
                    self._woken.wait(left)
                self._pace.rest(began)  # each event of a busy run wakes it
        finally:
            self._readers.leave(feed, self)
        self.events = len(page.events)
        if page.events:
            self._cursor = page.events[-1].id
        self.reason = self.reason or "ended"
        has_looked = after is not None and after > (asked or ZERO)
        if has_looked and not page.events and not page.ended and page.next is None:
            return page._replace(next=after)
        return page

    def standing(self) -> Standing:
        """Return what was found. The answer itself is no part of it."""
        return Standing("waiting", self.events, 0, self._cursor)

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

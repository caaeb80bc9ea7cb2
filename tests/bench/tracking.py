"""The gateway with one tracking reader on one server, in place of blocking XREADs."""

from collections.abc import Callable

from app import create_app, wiring
from app.streaming.event_store import EventStore
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.tracking_reader import TrackingReader


class OneReader(ReaderPool):
    """A reader of all feeds."""

    readers = 1

    def __init__(self, store: EventStore, dropped: Callable[[Feed], None]):
        super().__init__(store, dropped)
        self._reader: TrackingReader | None = None

    def _place(self, feed: Feed) -> TrackingReader:
        if self._reader is None:
            self._reader = TrackingReader(
                self._store, self._store.engine, lambda *_: None, lambda _: None
            )
        self._reader.add(feed)
        return self._reader

    def _shrink(self) -> None:
        pass


wiring.make_readers = OneReader
app = create_app()

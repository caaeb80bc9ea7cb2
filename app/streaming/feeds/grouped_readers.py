"""The readers for one server: its feeds are spread over as few readers as possible."""

from collections.abc import Callable

from ..event_store import EventStore
from ..redis.server import Server
from .feed import Feed
from .group_read import GROUP_SIZE
from .reader_pool import ReaderPool
from .tail_reader import TailReader
from .waker import Waker


class GroupedReaders(ReaderPool):
    """Readers of up to GROUP_SIZE feeds each."""

    def __init__(
        self,
        store: EventStore,
        dropped: Callable[[Feed], None] = lambda feed: None,
    ):
        super().__init__(store, dropped)
        assert isinstance(store.engine, Server)
        self._server = store.engine
        self._readers: list[TailReader] = []
        self._waker = Waker(self._server)

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return len(self._readers)

    def _place(self, feed: Feed) -> TailReader:
        reader = next((reader for reader in self._readers if len(reader) < GROUP_SIZE), None)
        if reader is None:
            reader = TailReader(self._store, self._server, self._waker.wake)
            self._readers.append(reader)
        reader.add(feed)
        reader.wake()
        return reader

    def _shrink(self) -> None:
        """Close the smallest reader if the others have room for its feeds.

        A feed may move at any time, since it accepts only what was read from its position.
        """
        if len(self._feeds) <= GROUP_SIZE * (len(self._readers) - 1):
            smallest = min(self._readers, key=len)
            self._readers.remove(smallest)
            for feed in smallest.remove_all():
                self._feeds[feed.run_id] = feed, self._place(feed)
            smallest.wake()

"""The readers for a cluster: one for each node, whose feeds go along with the slots."""

import logging
import threading
from collections.abc import Callable

from redis.exceptions import AskError, MovedError

from ..errors import StoreUnavailable, StreamingError
from ..event_store import EventStore
from ..log.redis_keys import log_key
from ..redis.cluster.cluster import Cluster
from ..redis.server import Server
from .feed import Feed
from .reader_pool import ReaderPool
from .tracking_reader import TrackingReader

log = logging.getLogger("tailrace.reader")


class NodeReaders(ReaderPool):
    """A reader for each node that has the log of a feed.

    A thread moves feeds to other readers: when slots have moved, or a node says that a log is on
    its way to another node.
    """

    def __init__(
        self,
        store: EventStore,
        dropped: Callable[[Feed], None] = lambda feed: None,
    ):
        super().__init__(store, dropped)
        assert isinstance(store.engine, Cluster)
        self._cluster = store.engine
        self._by_server: dict[Server, TrackingReader] = {}
        self._on_the_way: dict[Feed, Server] = {}  # feeds whose logs move, and where to
        self._must_move = threading.Event()
        self._started = False

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return len(self._by_server)

    def _place(self, feed: Feed) -> TrackingReader:
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="tailrace-mover", daemon=True).start()
            self._cluster.watch(self._must_move.set)
        reader = self._reader_at(self._server_of(feed))
        reader.add(feed, asking=feed in self._on_the_way)
        return reader

    def _server_of(self, feed: Feed) -> Server:
        """Return the node that has a feed's log. Raises StoreUnavailable if none is known."""
        there = self._on_the_way.get(feed)
        try:
            server = self._cluster.server_of(log_key(feed.run_id))
        except StoreUnavailable:
            if there is None:
                raise
            return there
        if there is None or there.address == server.address:
            # It has arrived, and goes where its slot goes. The object may be another one: a node
            # without slots is forgotten.
            self._on_the_way.pop(feed, None)
            return server
        return there

    def _reader_at(self, server: Server) -> TrackingReader:
        reader = self._by_server.get(server)
        if reader is None:
            reader = TrackingReader(self._store, server, self._redirected, self._lost)
            self._by_server[server] = reader
        return reader

    def _shrink(self) -> None:
        for server, reader in list(self._by_server.items()):
            if not len(reader):
                del self._by_server[server]
                reader.close()
        for feed in list(self._on_the_way):  # a reader may add one meanwhile
            if self._feeds.get(feed.run_id, (None,))[0] is not feed:
                self._on_the_way.pop(feed, None)

    # For the readers

    def _redirected(self, feed: Feed, reply: AskError, by: Server) -> None:
        """Note that a node has named another one for a feed's log."""
        if isinstance(reply, MovedError):
            self._on_the_way.pop(feed, None)
            self._cluster.moved(reply.slot_id, reply.host, reply.port, by)
        else:
            self._on_the_way[feed] = self._cluster.node_at(reply.host, reply.port, by)
        self._must_move.set()

    def _lost(self, lost: Server) -> None:
        """Look for the node that has the slots of one that has failed.

        The node that a log comes from says who is in its place, if it was on its way there.
        """
        for feed, server in list(self._on_the_way.items()):
            if server is lost:
                self._on_the_way.pop(feed, None)
                self._must_move.set()
        try:
            self._cluster.refresh_after(self._cluster.refreshes)
        except StreamingError as error:
            log.debug("the map of the cluster cannot be read: %s", error)

    # Moving

    def _run(self) -> None:
        while True:
            self._must_move.wait()
            self._must_move.clear()
            try:
                self._move()
            except Exception:
                log.exception("unexpected error while feeds move")

    def _move(self) -> None:
        """Give each feed to the reader of the node that has its log."""
        with self._lock:
            for feed, reader in list(self._feeds.values()):
                try:
                    server = self._server_of(feed)
                except StreamingError:  # nobody has the slot now
                    continue
                if isinstance(reader, TrackingReader) and reader.server is not server:
                    other = self._reader_at(server)
                    reader.remove(feed)
                    other.add(feed, asking=self._on_the_way.get(feed) is server)
                    self._feeds[feed.run_id] = feed, other
            self._shrink()

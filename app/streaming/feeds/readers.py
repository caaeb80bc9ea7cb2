"""The readers of a worker, of the kind that its Redis needs."""

from collections.abc import Callable

from ..event_store import EventStore
from ..redis.cluster.cluster import Cluster
from .feed import Feed
from .grouped_readers import GroupedReaders
from .node_readers import NodeReaders
from .reader_pool import ReaderPool


def make_readers(
    store: EventStore, dropped: Callable[[Feed], None] = lambda feed: None
) -> ReaderPool:
    """Return readers for all feeds. `dropped` is called with each that nobody follows any more."""
    if isinstance(store.engine, Cluster):
        return NodeReaders(store, dropped)
    return GroupedReaders(store, dropped)

"""Opens streams in this process, and reads the events that they send."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from app.streaming.event_store import EventStore
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.replay import Replay
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.wire.formats import Filter, JsonLines, StreamFormat, WireFormat

EARLIEST = Start()
JSON_LINES = JsonLines()


@lru_cache
def history_of(readers: ReaderPool, store: EventStore) -> History:
    """The history of a pool of readers: the pages of a feed belong to one history."""
    return History(store)


def subscribe(
    store: EventStore,
    readers: ReaderPool,
    run_id: str,
    start: Start = EARLIEST,
    wire: WireFormat = JSON_LINES,
    categories: Iterable[str] = (),
    **options: Any,
) -> Subscriber:
    history = history_of(readers, store)
    services = Services(store, readers, history, Heartbeats(15.0), **options)
    replay = Replay(run_id, start, services)
    return Subscriber(replay, StreamFormat(Filter(frozenset(categories)), wire), services)


def events_of(chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        for line in chunk.splitlines():
            yield json.loads(line)


def name_of(event: dict[str, Any]) -> str:
    return "{category}.{action}".format(**event["event"])

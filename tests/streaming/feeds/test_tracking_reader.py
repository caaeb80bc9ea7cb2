"""The reader of a node, on one server: its checks."""

import socket
import time

from app.streaming.event_store import EventStore
from app.streaming.feeds import feed_group, tracking_reader
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.feed_group import FeedGroup
from app.streaming.feeds.tracking_reader import TrackingReader
from app.streaming.log.log_state import NO_LOG
from app.streaming.redis.connection import has_nothing_to_read
from tests.servers import wait_until
from tests.streaming.feeds.test_tail_reader import Tap


def test_what_is_told_does_not_wait_for_the_checks_of_all_groups(redis_server, run_id, monkeypatch):
    monkeypatch.setattr(tracking_reader, "GROUP_SIZE", 1)
    monkeypatch.setattr(tracking_reader, "MAX_LATE_SECONDS", 60)
    delivered: list[int] = []  # how many events, at each check
    runs, tap = [f"{run_id}-{number}" for number in range(3)], Tap()

    class Checked(EventStore):
        def states(self, run_ids):
            if is_due:
                delivered.append(tap.flushed)
            if len(delivered) == 1:
                self.add(runs[2], "llm", "stream")
                wait_until(has_been_told, "the node has told the change")
            return super().states(run_ids)

    def has_been_told() -> bool:
        return not has_nothing_to_read(reader._invalidations._telling)

    is_due = False
    store = Checked(redis_server.url)
    for each in runs:
        store.add(each, "llm", "started")
    reader = TrackingReader(store, store.engine, lambda *_: None, lambda _: None)
    try:
        feeds = [Feed(each, store.state(each)) for each in runs]
        feeds[2].tap(tap)
        for feed in feeds:
            reader.add(feed)
        assert len(reader._groups) == 3
        # An event of each has come, so all are verified and read.
        for each in runs:
            store.add(each, "llm", "stream")
        for feed in feeds:
            wait_until(lambda feed=feed: feed.position.sequence == 2, "the feed follows")
        wait_until(lambda: tap.flushed == 1, "the event of the tapped one is delivered")
        is_due, due_at = True, time.monotonic() + 0.1
        for tracked in reader._groups:
            tracked.group.next_check = due_at
        reader.wake()
        wait_until(lambda: len(delivered) == 3, "all groups were checked")
    finally:
        reader.close()
    assert delivered == [1, 2, 2]


def test_a_feed_that_comes_while_others_are_verified_is_verified_at_once(
    redis_server, run_id, monkeypatch
):
    monkeypatch.setattr(feed_group, "CHECK_SECONDS", 3600.0)
    runs = [f"{run_id}-{number}" for number in range(2)]

    class Verified(EventStore):
        def are_here(self, positions):
            if [each for each, _ in positions] == runs[:1]:
                reader.add(feeds[1])
            return super().are_here(positions)

    store = Verified(redis_server.url)
    for each in runs:
        store.add(each, "llm", "started")
    feeds = [Feed(each, store.state(each)) for each in runs]
    reader = TrackingReader(store, store.engine, lambda *_: None, lambda _: None)
    try:
        reader.add(feeds[0])
        for feed in feeds:
            store.add(feed.run_id, "llm", "stream")
        for feed in feeds:
            wait_until(lambda feed=feed: feed.position.sequence == 2, "the feed follows")
    finally:
        reader.close()


def test_a_reader_survives_an_error_in_what_it_calls_after_a_failure(redis_server, run_id):
    store, lost = EventStore(redis_server.url), []

    def fail(server) -> None:
        lost.append(server)
        raise ZeroDivisionError

    store.add(run_id, "llm", "started")
    feed = Feed(run_id, store.state(run_id))
    reader = TrackingReader(store, store.engine, lambda *_: None, fail)
    try:
        reader.add(feed)
        store.add(run_id, "llm", "stream")
        wait_until(lambda: feed.position.sequence == 2, "the feed follows")
        reader._invalidations.link._sock.shutdown(socket.SHUT_RDWR)
        store.add(run_id, "llm", "stream")
        wait_until(lambda: feed.position.sequence == 3, "the feed follows again")
    finally:
        reader.close()
    assert lost == [store.engine]


def test_a_feed_that_comes_right_after_others_are_verified_is_verified_at_once(
    redis_server, run_id, monkeypatch
):
    monkeypatch.setattr(feed_group, "CHECK_SECONDS", 3600.0)
    store = EventStore(redis_server.url)
    feeds = [Feed(f"{run_id}-{number}", NO_LOG) for number in range(2)]
    verify = FeedGroup.verify

    def verify_before_another_comes(group: FeedGroup) -> bool:
        came_meanwhile = verify(group)
        if len(group) == 1:
            reader.add(feeds[1])
        return came_meanwhile

    monkeypatch.setattr(FeedGroup, "verify", verify_before_another_comes)
    reader = TrackingReader(store, store.engine, lambda *_: None, lambda _: None)
    try:
        reader.add(feeds[0])
        wait_until(lambda: len(reader) == 2, "the other one has come")
        for feed in feeds:
            store.add(feed.run_id, "llm", "stream")
            wait_until(lambda feed=feed: feed.position.sequence == 1, "the feed follows")
    finally:
        reader.close()

"""The feed: what it keeps, what it returns after a cursor, and which subscribers it wakes."""

import pytest

from app.streaming.event_id import ZERO, EventId
from app.streaming.follow import feed as feed_module
from app.streaming.follow.feed import Feed
from app.streaming.wire.frame_batch import FrameBatch
from tests.streaming.follow.fakes import FakeSubscriber, frame, new_feed, publish, sse


def after(feed: Feed, number: int, epoch: int = 0) -> list[int] | None:
    batches = feed.after(EventId(number, 0), epoch)
    if batches is None:
        return None
    return [frame.cursor.ms for batch in batches for frame in batch.frames]


@pytest.fixture
def feed() -> Feed:
    return new_feed()


def test_a_new_feed_has_nothing_after_its_position_and_knows_nothing_before(feed):
    assert after(feed, 5) == []
    assert after(feed, 9) == []
    assert after(feed, 4) is None


def test_a_cursor_gets_what_came_after_it(feed):
    publish(feed, 6, 7)
    publish(feed, 8)
    assert [after(feed, number) for number in (5, 6, 7, 8)] == [[6, 7, 8], [7, 8], [8], []]
    assert feed.position.id == EventId(8, 0)
    assert feed.sequence == 8


def test_a_cursor_between_two_events_gets_what_came_after_it(feed):
    publish(feed, 6, 8)
    assert after(feed, 7) == [8]


def test_publishing_wakes_every_subscriber_that_has_joined(feed):
    stays, leaves = FakeSubscriber(feed), FakeSubscriber(feed)
    publish(feed, 6)
    assert not feed.leave(leaves)
    publish(feed, 7)
    assert (stays.woken, leaves.woken) == (2, 1)


def test_leave_returns_true_for_the_last_subscriber(feed):
    first, last = FakeSubscriber(feed), FakeSubscriber(feed)
    assert [feed.leave(first), feed.leave(first), feed.leave(last)] == [False, False, True]


def test_a_batch_read_from_an_old_position_is_not_published(feed):
    parked = FakeSubscriber(feed)
    position = feed.position
    publish(feed, 6)
    parked.cursor = feed.position.id
    assert parked.park()
    feed.publish(position, FrameBatch(position.id, [frame(6)]), sequence=6, ended=True)
    assert after(feed, 5) == [6]
    assert not feed.ended
    assert parked.client_socket.received == b""


def test_ended_is_that_of_the_last_batch(feed):
    publish(feed, 6, ended=True)
    assert feed.ended
    publish(feed, 7)
    assert not feed.ended


def test_a_feed_keeps_a_limited_number_of_batches(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_RECENT_BATCHES", 3)
    publish(feed, 6, 7)
    for number in (8, 9, 10):
        publish(feed, number)
    assert after(feed, 6) is None
    assert after(feed, 7) == [8, 9, 10]


def test_a_feed_keeps_a_limited_number_of_bytes(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_RECENT_BYTES", 2500)
    for number in range(6, 16):
        publish(feed, number, size=1000)
    assert after(feed, 13) == [14, 15]
    assert after(feed, 12) is None


def test_a_batch_over_the_limit_is_not_kept_and_not_skipped(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_RECENT_BYTES", 1000)
    publish(feed, 6, size=2000)
    assert feed.position.id == EventId(6, 0)
    assert after(feed, 5) is None  # so that it is read from the log
    assert after(feed, 6) == []
    publish(feed, 7)
    assert after(feed, 6) == [7]


def test_forgotten_batches_are_read_from_the_log(feed):
    publish(feed, 6, 7)
    feed.forget()
    assert after(feed, 6) is None
    assert after(feed, 7) == []


def test_batches_with_deleted_events_are_read_from_the_log(feed):
    publish(feed, 6, 7)
    before = feed.version
    feed.note_deleted(EventId(6, 0))
    assert after(feed, 6) is None
    assert feed.version != before
    publish(feed, 8)
    feed.note_deleted(EventId(6, 0))
    assert after(feed, 7) == [8]


def test_settle_ends_the_run_only_at_the_feeds_own_position(feed):
    awake, parked = FakeSubscriber(feed), FakeSubscriber(feed)
    assert parked.park()
    feed.settle(EventId(4, 0), 4, ended=True)
    assert (feed.ended, awake.woken, parked.unsent) == (False, 0, [])
    feed.settle(EventId(5, 0), 5, ended=True)
    assert (feed.ended, awake.woken, parked.unsent) == (True, 1, [None])


def test_a_feed_that_was_reset_has_no_batches_for_cursors_of_the_old_log(feed):
    subscriber = FakeSubscriber(feed)
    publish(feed, 6, ended=True)
    feed.reset(0)
    assert subscriber.woken == 2
    assert feed.position == (1, ZERO)
    assert (feed.sequence, feed.ended) == (0, False)
    assert after(feed, 0, epoch=1) == []
    publish(feed, 2)
    assert after(feed, 0, epoch=0) is None
    assert after(feed, 0, epoch=1) == [2]


def test_two_resets_of_one_epoch_are_one_reset(feed):
    feed.reset(0)
    publish(feed, 1)
    feed.reset(0)
    assert feed.position == (1, EventId(1, 0))


def test_a_batch_of_the_old_log_is_not_published_in_the_new_one():
    feed = Feed("r", ZERO, sequence=0, ended=False)
    position = feed.position
    feed.reset(0)
    feed.publish(position, FrameBatch(position.id, [frame(6)]), sequence=6, ended=False)
    assert feed.position == (1, ZERO)


# Parking


def test_only_a_subscriber_that_is_up_to_date_in_the_same_log_may_park(feed):
    behind, other_log, up_to_date = (FakeSubscriber(feed) for _ in range(3))
    behind.cursor = EventId(4, 0)
    assert not behind.park()
    assert feed.park(other_log, epoch=1) is None
    assert up_to_date.park()
    feed.settle(EventId(5, 0), 5, ended=True)
    assert not up_to_date.park()  # its stream is over, not silent


def test_a_parked_subscriber_is_written_to_and_not_woken(feed):
    subscriber = FakeSubscriber(feed)
    assert subscriber.park()
    publish(feed, 6)
    assert (subscriber.woken, subscriber.unsent) == (0, [])
    assert subscriber.client_socket.received == sse(6)
    subscriber.leave_fanout()
    publish(feed, 7)
    assert subscriber.woken == 1
    assert subscriber.client_socket.received == sse(6)


def test_a_subscriber_that_left_is_neither_written_to_nor_woken(feed):
    subscriber, stays = FakeSubscriber(feed), FakeSubscriber(feed)
    assert subscriber.park()
    subscriber.leave_fanout()
    assert not feed.leave(subscriber)
    publish(feed, 6)
    assert (subscriber.woken, subscriber.client_socket.received, stays.woken) == (0, b"", 1)


def test_the_end_of_a_run_is_delivered_and_then_unparks(feed):
    subscriber = FakeSubscriber(feed)
    assert subscriber.park()
    publish(feed, 6, ended=True)
    assert subscriber.client_socket.received == sse(6)
    assert subscriber.unsent == [None]


def test_a_reset_unparks(feed):
    subscriber = FakeSubscriber(feed)
    assert subscriber.park()
    feed.reset(0)
    assert subscriber.unsent == [None]
    publish(feed, 1)
    assert subscriber.client_socket.received == b""


def test_unpark_returns_how_many_events_were_sent_since_the_subscriber_parked(feed):
    early, late = FakeSubscriber(feed), FakeSubscriber(feed)
    assert early.park()
    publish(feed, 6, 7)
    late.cursor = feed.position.id
    assert late.park()
    publish(feed, 8)
    early.leave_fanout()
    late.leave_fanout()
    assert (early.events, late.events) == (3, 1)

"""The feed: what it keeps, what it returns after a position, and which subscribers it wakes."""

from itertools import pairwise

import pytest

from app.streaming.event_id import LAST, ZERO, EventId
from app.streaming.feeds import feed as feed_module
from app.streaming.feeds.feed import Feed
from app.streaming.log.log_state import NO_LOG
from app.streaming.log.position import START, Between, Position
from app.streaming.wire.formats import EventStream, Filter, StreamFormat
from app.streaming.wire.frame_batch import FrameBatch
from tests.clocks import replace_time
from tests.streaming.follow.fakes import (
    FakeSubscriber,
    frame,
    new_feed,
    publish,
    publish_notice,
    publish_reset,
    sse,
)
from tests.streaming.positions import EPOCH, OTHER_EPOCH, at, log

NEW_LOG = Position(OTHER_EPOCH, ZERO, 0)


def after(feed: Feed, position: int | Position) -> list[int | str]:
    """The numbers of the events, and the names of the notices, after a position."""
    batches = feed.after(at(position) if isinstance(position, int) else position)
    for one, following in pairwise(batches):
        assert one.end is following.start
    return [
        frame.cursor.ms if batch.events else frame.action
        for batch in batches
        for frame in batch.frames
    ]


@pytest.fixture
def feed() -> Feed:
    return new_feed()


def test_a_new_feed_stands_at_the_end_of_its_log_and_knows_nothing_before(feed):
    assert feed.position == at(5)
    assert feed.is_at(at(5))
    assert [after(feed, number) for number in (4, 5, 9)] == [[], [], []]


def test_a_position_gets_what_came_after_it(feed):
    publish(feed, 6, 7)
    publish(feed, 8)
    assert [after(feed, number) for number in (5, 6, 7, 8)] == [[6, 7, 8], [7, 8], [8], []]
    assert feed.position == at(8)


@pytest.mark.parametrize(
    "position",
    [
        Position(EPOCH, EventId(6, 0), 9),
        Position(EPOCH, EventId(6, 5), None),
        Position(EPOCH, EventId(6, 5), 6),
        Position(OTHER_EPOCH, EventId(6, 0), 6),
        Position(b"", EventId(6, 0), 6),
        START,
    ],
    ids=[
        "more before it",
        "unproven",
        "lost",
        "other log",
        "unknown log",
        "start",
    ],
)
def test_a_position_that_the_feed_does_not_know_gets_nothing(feed, position):
    """So what follows it is read from the log, which can tell."""
    publish(feed, 6, 7, 8)
    assert after(feed, position) == []


def test_a_position_between_two_events_gets_what_came_after_it(feed):
    publish(feed, 6, 7)
    assert after(feed, Between(EPOCH, EventId(6, 5), 6)) == [7]


def test_a_position_without_a_sequence_gets_what_follows_its_entry(feed):
    publish(feed, 6, 7, 8)
    assert after(feed, Position(EPOCH, EventId(6, 0), None)) == [7, 8]


def test_a_notice_stands_between_what_was_before_and_what_comes_after_it(feed):
    publish(feed, 6)
    publish_notice(feed, "gap", at(8))
    publish(feed, 9)
    publish_reset(feed)
    publish(feed, 1)
    assert after(feed, 5) == [6, "gap", 9, "reset", 1]
    assert after(feed, 6) == ["gap", 9, "reset", 1]
    assert after(feed, 8) == [9, "reset", 1]
    assert after(feed, 9) == ["reset", 1]
    assert after(feed, NEW_LOG) == [1]
    assert after(feed, 7) == []  # nobody has been there


@pytest.mark.parametrize(
    ("position", "is_at", "is_behind"),
    [
        (at(5), True, False),
        (at(5)._replace(sequence=None), True, False),
        (at(4), False, False),
        (at(6), False, True),
        (at(5, OTHER_EPOCH), False, False),
        (at(6, OTHER_EPOCH), False, False),
        (START, False, False),
    ],
)
def test_a_feed_is_at_a_position_or_behind_it_or_neither(feed, position, is_at, is_behind):
    assert (feed.is_at(position), feed.is_behind(position)) == (is_at, is_behind)


def test_a_feed_that_is_past_a_gap_is_not_where_it_was_before(feed):
    """The gap before an event changes nothing but the sequence."""
    before = feed.position
    publish_notice(feed, "gap", before._replace(sequence=7))
    late = FakeSubscriber(feed)
    late.position = before
    assert not late.park()
    assert after(feed, before) == ["gap"]


def test_a_subscriber_that_joins_after_the_end_wakes_those_that_are_parked(feed):
    """It has read that the run has ended: what had reopened it was deleted."""
    parked = FakeSubscriber(feed)
    assert parked.park()
    feed.join(FakeSubscriber(feed), log(5, ended=True))
    assert feed.ended
    assert parked.unsent == [None]


def test_a_feed_of_no_log_is_behind_all_positions_but_starts():
    """A start in another log is the same place only for the log, which is read then."""
    feed = Feed("r", NO_LOG)
    assert (feed.is_at(START), feed.is_behind(START)) == (True, False)
    assert (feed.is_at(NEW_LOG), feed.is_behind(NEW_LOG)) == (False, False)
    assert (feed.is_at(at(1)), feed.is_behind(at(1))) == (False, True)


@pytest.mark.parametrize(
    ("state", "ended"),
    [(log(5, ended=True), True), (log(6, ended=True), False), (log(4, ended=True), False)],
)
def test_a_subscriber_that_joins_brings_the_end_of_the_run_at_the_feeds_position(
    feed, state, ended
):
    """What came after the terminal event may have been deleted."""
    feed.join(FakeSubscriber(feed), state)
    assert feed.ended is ended


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
    parked.position = feed.position
    assert parked.park()
    feed.publish(FrameBatch(position, [frame(6)], at(6)), ended=True)
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
    assert after(feed, 6) == []
    assert after(feed, 7) == [8, 9, 10]


def test_a_feed_keeps_a_limited_number_of_bytes(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_RECENT_BYTES", 2500)
    for number in range(6, 16):
        publish(feed, number, size=1000)
    assert after(feed, 13) == [14, 15]
    assert after(feed, 12) == []


def test_a_batch_over_the_limit_is_not_kept_and_not_skipped(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_RECENT_BYTES", 1000)
    publish(feed, 6, size=2000)
    assert feed.position == at(6)
    assert after(feed, 5) == []  # so that it is read from the log
    assert not feed.is_at(at(5))
    publish(feed, 7)
    assert after(feed, 6) == [7]


def test_batches_with_deleted_events_are_read_from_the_log(feed):
    publish(feed, 6, 7)
    changed = log(7, length=6, deleted=EventId(6, 0))
    feed.note_version(changed)
    assert after(feed, 5) == []
    assert feed.version == changed.version
    publish(feed, 8)
    feed.note_version(log(8, length=7, deleted=EventId(6, 0)))
    assert after(feed, 7) == [8]
    feed.note_version(log(8, length=6, deleted=EventId(6, 0)))
    assert after(feed, 7) == []


def test_trimming_does_not_forget_the_recent_batches(feed):
    publish(feed, 6, 7)
    feed.note_version(log(7, length=2, first_id=EventId(6, 0), first_sequence=6))
    assert after(feed, 5) == [6, 7]


# Checks against the state of the log


def test_a_check_ends_the_run_at_the_feeds_own_position(feed):
    awake, parked = FakeSubscriber(feed), FakeSubscriber(feed)
    assert parked.park()
    assert feed.check(feed.position, log(5))
    assert (feed.ended, awake.woken, parked.unsent) == (False, 0, [])
    assert feed.check(feed.position, log(5, ended=True))
    assert (feed.ended, awake.woken, parked.unsent) == (True, 1, [None])


def test_a_check_of_a_log_with_more_entries_leaves_them_to_the_reader(feed):
    parked = FakeSubscriber(feed)
    assert parked.park()
    assert not feed.check(feed.position, log(6, ended=True))
    assert (feed.position, feed.ended, parked.client_socket.received) == (at(5), False, b"")


def test_a_check_that_the_reader_has_overtaken_changes_nothing(feed):
    position, state = feed.position, log(5, ended=True)
    publish(feed, 6)
    assert not feed.check(position, state)
    assert (feed.position, feed.ended) == (at(6), False)


def test_a_check_that_has_read_the_whole_log_frees_the_recent_batches(feed):
    publish(feed, 6)
    assert feed.check(feed.position, log(6))
    assert after(feed, 5) == []
    assert feed.is_at(at(6))


@pytest.mark.parametrize(
    "state",
    [
        NO_LOG,
        log(2, OTHER_EPOCH),
        log(5, OTHER_EPOCH),
        log(9, OTHER_EPOCH),
        log(4),
        log(5, last_sequence=4, length=4),
    ],
    ids=["deleted", "shorter", "as long", "longer", "lost its end", "lost an entry before"],
)
def test_a_check_that_finds_another_log_publishes_a_reset(feed, state):
    parked = FakeSubscriber(feed)
    assert parked.park()
    assert feed.check(feed.position, state) == (state is NO_LOG)
    assert b"event: gateway.reset\n" in parked.client_socket.received
    assert feed.position == (state.epoch, ZERO, 0)
    assert not feed.ended


def test_two_checks_from_one_position_publish_one_reset(feed):
    parked = FakeSubscriber(feed)
    assert parked.park()
    position = feed.position
    feed.check(position, log(2, OTHER_EPOCH))
    publish(feed, 1)
    feed.check(position, log(2, OTHER_EPOCH))
    assert feed.position == at(1, OTHER_EPOCH)
    assert parked.client_socket.received.count(b"gateway.reset") == 1


@pytest.mark.parametrize("ended", [False, True])
def test_a_check_publishes_a_gap_for_entries_deleted_before_they_were_read(feed, ended):
    parked = FakeSubscriber(feed)
    assert parked.park()
    state = log(5, last_id=EventId(7, 0), last_sequence=7, deleted=EventId(7, 0), ended=ended)
    assert feed.check(feed.position, state)
    assert parked.client_socket.received.count(b"event: gateway.gap\n") == 1
    assert (feed.position, feed.ended) == (at(7), ended)
    feed.check(feed.position, state)
    assert parked.client_socket.received.count(b"event: gateway.gap\n") == 1


def test_a_batch_of_the_old_log_is_not_published_in_the_new_one():
    feed = Feed("r", NO_LOG)
    position = feed.position
    publish_reset(feed)
    feed.publish(FrameBatch(position, [frame(6)], at(6)), ended=False)
    assert feed.position == NEW_LOG


def test_a_feed_at_the_start_of_a_log_does_not_miss_that_yet_another_has_replaced_it(feed):
    """It has read nothing of either, so there is nothing to tell."""
    publish_reset(feed)
    assert not feed.check(feed.position, log(2, b"3"))
    assert feed.position.is_start
    assert feed.version[0] == b"3"


def test_what_was_read_before_a_subscriber_found_no_log_does_not_come_after_it():
    feed = Feed("r", NO_LOG)
    waiting = FakeSubscriber(feed)
    assert waiting.park()
    # Given a batch that a reader has read, and a subscriber that has joined since
    gone = FrameBatch(feed.position, [frame(6)], at(6))
    late = FakeSubscriber(feed)
    assert late.park()
    # When the batch is published, it comes to nobody
    feed.publish(gone, ended=False)
    assert waiting.client_socket.received == late.client_socket.received == b""
    # And what is read anew comes to both
    feed.publish(FrameBatch(feed.position, [frame(7)], at(7)), ended=False)
    assert waiting.client_socket.received == late.client_socket.received == sse(7)


# Parking


def test_only_a_subscriber_that_is_up_to_date_in_the_same_log_may_park(feed):
    behind, ahead, other_log, up_to_date = (FakeSubscriber(feed) for _ in range(4))
    behind.position, ahead.position, other_log.position = at(4), at(6), at(5, OTHER_EPOCH)
    assert [each.park() for each in (behind, ahead, other_log)] == [False] * 3
    assert up_to_date.park()
    up_to_date.leave_fanout()
    feed.check(feed.position, log(5, ended=True))
    assert not up_to_date.park()  # its stream is over, not silent


def test_parked_subscribers_share_the_position_of_the_feed(feed):
    """So what follows it is decided once for all of them."""
    subscriber = FakeSubscriber(feed)
    subscriber.position = Position(EPOCH, EventId(5, 0), None)
    assert subscriber.park()
    assert subscriber.position is feed.position
    publish(feed, 6)
    assert subscriber.client_socket.received == sse(6)


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


def test_parked_subscribers_follow_their_run_into_the_new_log(feed):
    subscriber = FakeSubscriber(feed)
    assert subscriber.park()
    publish(feed, 6)
    reset = publish_reset(feed)
    publish(feed, 1)
    assert subscriber.client_socket.received == sse(6) + reset + sse(1)
    assert (subscriber.position, subscriber.unsent) == (at(1, OTHER_EPOCH), [])


def test_unpark_returns_how_many_events_were_sent_since_the_subscriber_parked(feed):
    early, late = FakeSubscriber(feed), FakeSubscriber(feed)
    assert early.park()
    publish(feed, 6, 7)
    late.position = feed.position
    assert late.park()
    publish(feed, 8)
    publish_notice(feed, "gap", at(9))
    early.leave_fanout()
    late.leave_fanout()
    assert (early.events, late.events) == (3, 1)


def test_the_last_id_of_a_log_is_no_obstacle():
    feed = Feed("r", log(5, last_id=LAST))
    assert feed.position.id == LAST
    assert after(feed, feed.position) == []


def test_others_get_turns_while_a_batch_goes_to_many_filters(feed, monkeypatch):
    turns: list[float] = []
    replace_time(monkeypatch, feed_module, sleep=turns.append)
    count = 4 * feed_module.MAX_FANOUTS_IN_A_ROW
    for number in range(count):
        only = StreamFormat(Filter(frozenset({"even", f"c{number}"})), EventStream())
        assert FakeSubscriber(feed, stream_format=only).park()
    publish(feed, 6)
    assert turns == [0] * 4


def test_others_get_turns_while_an_end_unparks_many_subscribers(feed, monkeypatch):
    count = 4 * feed_module.MAX_UNPARKED_IN_A_ROW
    subscribers = [FakeSubscriber(feed) for _ in range(count)]
    assert all(subscriber.park() for subscriber in subscribers)
    turns: list[float] = []

    def leave(seconds: float) -> None:
        if not turns:  # one that is gone by its turn must not be unparked
            subscribers[-1].leave_fanout()
        turns.append(seconds)

    replace_time(monkeypatch, feed_module, sleep=leave)
    publish(feed, 6, ended=True)
    assert turns == [0] * 4
    assert [len(subscriber.unsent) for subscriber in subscribers] == [1] * (count - 1) + [0]

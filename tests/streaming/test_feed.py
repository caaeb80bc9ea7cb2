"""The feed: what it remembers, what it gives after a cursor, and whom it wakes."""

import pytest

from app.streaming import feed as feed_module
from app.streaming.event import Event
from app.streaming.event_id import ZERO, EventId
from app.streaming.feed import Feed
from app.streaming.sse import Frame


class Sleeper:
    """A subscriber that counts how often it was woken."""

    def __init__(self):
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def frame(number: int, size: int = 1) -> Frame:
    data = b'"%b"' % (b"x" * size)
    return Frame.of(Event.from_entry("r", b"%d-0" % number, {b"data": data}))


def publish(feed: Feed, *numbers: int, size: int = 1, ended: bool = False) -> None:
    frames = [frame(number, size) for number in numbers]
    feed.publish(feed.mark(), frames, sequence=numbers[-1], ended=ended)


def after(feed: Feed, number: int, epoch: int = 0) -> list[int] | None:
    frames = feed.after(EventId(number, 0), epoch)
    return None if frames is None else [frame.position.ms for frame in frames]


@pytest.fixture
def feed() -> Feed:
    """A feed that began when event 5 was the last."""
    return Feed("r", EventId(5, 0), sequence=5, ended=False)


def test_a_new_feed_has_nothing_after_its_position_and_knows_nothing_before(feed):
    assert after(feed, 5) == []
    assert after(feed, 9) == []
    assert after(feed, 4) is None


def test_a_cursor_gets_what_came_after_it(feed):
    publish(feed, 6, 7)
    publish(feed, 8)
    assert [after(feed, number) for number in (5, 6, 7, 8)] == [[6, 7, 8], [7, 8], [8], []]
    assert feed.position == EventId(8, 0)
    assert feed.sequence == 8


def test_what_is_published_wakes_all_who_have_joined(feed):
    stays, leaves = Sleeper(), Sleeper()
    feed.join(stays)
    feed.join(leaves)
    publish(feed, 6)
    assert not feed.leave(leaves)
    publish(feed, 7)
    assert (stays.woken, leaves.woken) == (2, 1)


def test_the_last_one_who_leaves_is_told_apart(feed):
    first, last = Sleeper(), Sleeper()
    feed.join(first)
    feed.join(last)
    assert [feed.leave(first), feed.leave(first), feed.leave(last)] == [False, False, True]


def test_what_was_read_after_another_mark_is_not_taken_in(feed):
    stale = feed.mark()
    publish(feed, 6)
    feed.publish(stale, [frame(6)], sequence=6, ended=True)
    assert after(feed, 5) == [6]
    assert not feed.ended


def test_an_end_that_is_published_is_known(feed):
    publish(feed, 6, ended=True)
    assert feed.ended
    publish(feed, 7)
    assert not feed.ended


def test_only_so_many_frames_are_remembered(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "RECENT_FRAMES", 3)
    publish(feed, 6, 7)
    publish(feed, 8, 9, 10)
    assert after(feed, 6) is None
    assert after(feed, 7) == [8, 9, 10]


def test_only_so_many_bytes_are_remembered(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "RECENT_BYTES", 2500)
    for number in range(6, 16):
        publish(feed, number, size=1000)
    assert after(feed, 13) == [14, 15]
    assert after(feed, 12) is None


def test_a_frame_over_the_limit_is_not_remembered_and_not_skipped(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "RECENT_BYTES", 1000)
    publish(feed, 6, size=2000)
    assert feed.position == EventId(6, 0)
    assert after(feed, 5) is None  # so that it is read from the log
    assert after(feed, 6) == []
    publish(feed, 7)
    assert after(feed, 6) == [7]


def test_what_is_forgotten_is_read_from_the_log(feed):
    publish(feed, 6, 7)
    feed.forget()
    assert after(feed, 6) is None
    assert after(feed, 7) == []


def test_settling_tells_the_end_at_the_feeds_own_position_only(feed):
    sleeper = Sleeper()
    feed.join(sleeper)
    feed.settle(EventId(4, 0), ended=True)
    assert (feed.ended, sleeper.woken) == (False, 0)
    feed.settle(EventId(5, 0), ended=True)
    assert (feed.ended, sleeper.woken) == (True, 1)


def test_a_feed_begun_anew_has_no_frames_for_cursors_of_the_former_log(feed):
    sleeper = Sleeper()
    feed.join(sleeper)
    publish(feed, 6, ended=True)
    feed.begin_anew(0)
    assert sleeper.woken == 2
    assert feed.mark() == (1, ZERO)
    assert (feed.sequence, feed.ended) == (0, False)
    assert after(feed, 0, epoch=1) == []
    publish(feed, 2)
    assert after(feed, 0, epoch=0) is None
    assert after(feed, 0, epoch=1) == [2]


def test_two_who_notice_the_same_new_log_begin_it_once(feed):
    feed.begin_anew(0)
    publish(feed, 1)
    feed.begin_anew(0)
    assert feed.mark() == (1, EventId(1, 0))


def test_what_was_read_from_the_former_log_is_not_taken_into_the_new_one():
    feed = Feed("r", ZERO, sequence=0, ended=False)
    stale = feed.mark()
    feed.begin_anew(0)
    feed.publish(stale, [frame(6)], sequence=6, ended=False)
    assert feed.mark() == (1, ZERO)

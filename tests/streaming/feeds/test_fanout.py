"""The fanout: every parked subscriber gets each batch once, whatever happens meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from app.streaming.feeds import fanout as fanout_module
from app.streaming.feeds.feed import Feed
from app.streaming.wire import progress
from app.streaming.wire.formats import EventStream, Filter, StreamFormat
from app.streaming.wire.frame import Frame
from app.streaming.wire.frame_batch import http_chunk
from tests.clocks import replace_time
from tests.streaming.follow.fakes import (
    BUFFER_FULL,
    ONLY_ODD,
    FakeSubscriber,
    frame,
    new_feed,
    publish,
    publish_notice,
    publish_reset,
    sse,
)
from tests.streaming.positions import at


@pytest.fixture
def feed() -> Feed:
    return new_feed()


def test_every_subscriber_gets_the_same_bytes_once_in_its_format_and_framing(feed):
    odd = StreamFormat(Filter(frozenset({"odd"})), EventStream(typed=False))
    plain, other, chunked, filtered = subscribers = [
        FakeSubscriber(feed),
        FakeSubscriber(feed),
        FakeSubscriber(feed, chunked=True),
        FakeSubscriber(feed, stream_format=odd),
    ]
    assert all(subscriber.park() for subscriber in subscribers)
    publish(feed, 6, 7)
    publish(feed, 8)
    assert plain.client_socket.received == other.client_socket.received == sse(6, 7, 8)
    first, second = sse(6, 7), sse(8)
    assert chunked.client_socket.received == b"%x\r\n%b\r\n%x\r\n%b\r\n" % (
        *(len(first), first),
        *(len(second), second),
    )
    assert filtered.client_socket.received == frame(7).untyped
    assert {id(subscriber.position) for subscriber in subscribers} == {id(feed.position)}
    assert feed.position == at(8)


def test_a_batch_of_which_no_event_passes_the_filter_writes_nothing(feed):
    """An empty chunk would end the body."""
    subscriber = FakeSubscriber(feed, stream_format=ONLY_ODD, room=0, chunked=True)
    assert subscriber.park()
    publish(feed, 6)
    assert (subscriber.position, subscriber.unsent) == (at(6), [])


@pytest.mark.parametrize(
    "error", [BUFFER_FULL, ConnectionResetError(), BrokenPipeError()], ids=repr
)
@pytest.mark.parametrize("room", [0, 1, 10, len(sse(6)) - 1])
def test_a_subscriber_whose_socket_takes_a_part_is_unparked_with_exactly_the_rest(
    feed, room, error
):
    short, whole = FakeSubscriber(feed, room=room, error=error), FakeSubscriber(feed)
    assert short.park()
    assert whole.park()
    publish(feed, 6)
    publish(feed, 7)
    assert short.client_socket.received == sse(6)[:room]
    assert short.unsent == [sse(6)[room:]]
    assert short.position == at(6)
    assert short.woken == 2
    assert whole.client_socket.received == sse(6, 7)


@pytest.fixture
def interrupt(monkeypatch) -> Callable[..., None]:
    """Run steps when the loop gives way, which it does here after each socket."""
    monkeypatch.setattr(fanout_module, "MAX_SENDS_IN_A_ROW", 1)

    def interrupt(*steps: Callable[[], object]) -> None:
        remaining = list(steps)
        replace_time(
            monkeypatch,
            fanout_module,
            sleep=lambda seconds: remaining.pop(0)() if remaining else None,
        )

    return interrupt


def test_the_loop_gives_way_after_a_number_of_sockets(feed, monkeypatch):
    monkeypatch.setattr(fanout_module, "MAX_SENDS_IN_A_ROW", 10)
    pauses: list[float] = []
    replace_time(monkeypatch, fanout_module, sleep=pauses.append)
    subscribers = [FakeSubscriber(feed) for _ in range(35)]
    assert all(subscriber.park() for subscriber in subscribers)
    publish(feed, 6)
    assert pauses == [0, 0, 0]


def test_a_subscriber_that_left_while_the_loop_gave_way_is_not_written_to(feed, interrupt):
    first, second = FakeSubscriber(feed), FakeSubscriber(feed)
    assert first.park()
    assert second.park()
    interrupt(second.leave_fanout)
    publish(feed, 6)
    assert second.client_socket.received == b""
    second.catch_up()
    assert second.client_socket.received == first.client_socket.received == sse(6)


def test_a_subscriber_that_caught_up_and_parked_again_meanwhile_gets_nothing_twice(feed, interrupt):
    first, second = FakeSubscriber(feed), FakeSubscriber(feed)
    assert first.park()
    assert second.park()

    def come_back():
        second.leave_fanout()
        second.catch_up()
        assert second.park()

    interrupt(come_back)
    publish(feed, 6)
    assert second.unsent == [None]  # it may have missed something, and looks
    second.catch_up()
    assert second.park()
    publish(feed, 7)
    assert second.client_socket.received == first.client_socket.received == sse(6, 7)


def test_a_subscriber_that_parks_for_the_first_time_meanwhile_gets_only_what_comes_next(
    feed, interrupt
):
    first = FakeSubscriber(feed)
    assert first.park()
    newcomers: list[FakeSubscriber] = []

    def park_another():
        newcomers.append(FakeSubscriber(feed))
        assert newcomers[0].park()

    interrupt(park_another)
    publish(feed, 6)
    publish(feed, 7)
    assert newcomers[0].client_socket.received == sse(7)
    assert first.client_socket.received == sse(6, 7)


def test_a_batch_that_is_delivered_during_another_delivery_keeps_the_order(feed, interrupt):
    """A feed may move to another reader while the first reader still delivers."""
    first, second = FakeSubscriber(feed), FakeSubscriber(feed)
    assert first.park()
    assert second.park()
    interrupt(lambda: publish(feed, 7))
    publish(feed, 6)
    assert second.unsent == [None]
    second.catch_up()
    assert first.client_socket.received == second.client_socket.received == sse(6, 7)


@dataclass(frozen=True)
class EndsWithEach(EventStream):
    """A format whose streams end with the first event that they get."""

    ends_early = True

    def is_last(self, frame: Frame) -> bool:
        return True


@dataclass(frozen=True)
class SilentEnd(EndsWithEach):
    """The same without a word."""

    def frame(self, frame: Frame) -> bytes:
        return b""


ENDING = StreamFormat(Filter(), EndsWithEach())


def test_all_end_with_the_last_event_that_they_get(feed):
    whole, short, silent = subscribers = [
        FakeSubscriber(feed, ENDING),
        FakeSubscriber(feed, ENDING, room=3),
        FakeSubscriber(feed, StreamFormat(Filter(), SilentEnd())),
    ]
    assert all(subscriber.park() for subscriber in subscribers)
    publish(feed, 6, 7)
    assert whole.client_socket.received == sse(6)
    assert (short.client_socket.received, short.unsent) == (sse(6)[:3], [sse(6)[3:]])
    assert silent.client_socket.received == b""
    assert [subscriber.reason for subscriber in subscribers] == ["ended"] * 3
    assert [subscriber.fanout for subscriber in subscribers] == [None] * 3


def test_who_parks_while_the_loop_gives_way_does_not_end_with_what_was_before(feed, interrupt):
    first = FakeSubscriber(feed, ENDING)
    assert first.park()
    newcomers: list[FakeSubscriber] = []

    def park_another():
        newcomers.append(FakeSubscriber(feed, ENDING))
        assert newcomers[0].park()

    interrupt(park_another)
    publish(feed, 6)
    assert (first.reason, newcomers[0].reason) == ("ended", None)
    publish(feed, 7)
    assert newcomers[0].client_socket.received == sse(7)
    assert first.client_socket.received == sse(6)


def test_who_has_the_last_event_gets_nothing_that_is_delivered_meanwhile(feed, interrupt):
    first, second = FakeSubscriber(feed, ENDING), FakeSubscriber(feed, ENDING)
    assert first.park()
    assert second.park()
    interrupt(lambda: publish(feed, 7))
    publish(feed, 6)
    assert (first.client_socket.received, first.reason) == (sse(6), "ended")
    assert second.unsent == [None]  # it looks itself what comes next, and ends


def test_a_reset_while_the_loop_gave_way_comes_after_the_events_of_the_old_log(feed, interrupt):
    first, second = FakeSubscriber(feed), FakeSubscriber(feed)
    assert first.park()
    assert second.park()
    resets: list[bytes] = []
    interrupt(lambda: resets.append(publish_reset(feed)))
    publish(feed, 6)
    assert (second.client_socket.received, second.unsent) == (b"", [None])
    second.catch_up()
    assert second.park()
    publish(feed, 1)
    expected = sse(6) + resets[0] + sse(1)
    assert first.client_socket.received == second.client_socket.received == expected


@pytest.mark.parametrize("notice", ["gap", "reset"])
def test_a_notice_goes_to_every_subscriber_whatever_its_filter(feed, notice):
    subscribers = [FakeSubscriber(feed), FakeSubscriber(feed, stream_format=ONLY_ODD)]
    assert all(subscriber.park() for subscriber in subscribers)
    expected = publish_notice(feed, notice, at(8))
    assert [each.client_socket.received for each in subscribers] == [expected] * 2
    assert [each.fanout.sent.events for each in subscribers] == [0, 0]
    assert [each.position for each in subscribers] == [at(8)] * 2


# Progress


def progress_of(received: bytes) -> list[bytes]:
    """The ids of the progress events among some bytes."""
    blocks = received.split(b"\n\n")
    return [
        block.partition(b"\n")[0].removeprefix(b"id: ")
        for block in blocks
        if b"event: gateway.progress" in block
    ]


@pytest.mark.parametrize("chunked", [False, True], ids=["plain", "chunked"])
def test_after_many_dropped_events_the_progress_is_sent(feed, monkeypatch, chunked):
    monkeypatch.setattr(progress, "MAX_DROPPED", 3)
    subscriber = FakeSubscriber(feed, stream_format=ONLY_ODD, chunked=chunked)
    assert subscriber.park()
    for number in (6, 8, 10, 12):
        publish(feed, number)
    received = subscriber.client_socket.received
    if chunked:
        received = received.partition(b"\r\n")[2].removesuffix(b"\r\n")
        assert http_chunk(received) == subscriber.client_socket.received
    assert progress_of(received) == [b"10-0"]
    assert subscriber.fanout.progress.last_id == at(10).id
    assert subscriber.fanout.sent.events == 0


def test_progress_follows_the_events_of_its_batch(feed, monkeypatch):
    monkeypatch.setattr(progress, "MAX_DROPPED", 2)
    subscriber = FakeSubscriber(feed, stream_format=ONLY_ODD)
    assert subscriber.park()
    publish(feed, 6, 7, 8, 10)
    received = subscriber.client_socket.received
    assert received.startswith(sse(7))
    assert progress_of(received) == [b"10-0"]


def test_without_a_filter_there_is_no_progress_to_send(feed, monkeypatch):
    monkeypatch.setattr(progress, "MAX_DROPPED", 1)
    subscriber = FakeSubscriber(feed)
    assert subscriber.park()
    publish(feed, 6, 7)
    assert subscriber.client_socket.received == sse(6, 7)
    assert subscriber.fanout.progress.last_id == at(7).id


def test_a_fanout_counts_its_events_and_knows_when_it_last_sent(feed):
    subscriber = FakeSubscriber(feed)
    assert subscriber.park()
    assert (subscriber.fanout.sent.events, subscriber.fanout.last_sent) == (0, 0.0)
    publish(feed, 6, 7)
    assert subscriber.fanout.sent.events == 2
    assert subscriber.fanout.last_sent > 0

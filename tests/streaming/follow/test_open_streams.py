"""The open streams of a worker: the limit and the drain."""

import pytest

from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.open_streams import OpenStreams
from app.streaming.follow.reader_pool import ReaderPool
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.wire.formats import EventStream, Filter, StreamFormat


@pytest.fixture
def services(fake_store) -> Services:
    return Services(fake_store, ReaderPool(fake_store), History(fake_store), Heartbeats(15.0))


def make_subscribers(streams: OpenStreams, number: int) -> list[Subscriber]:
    stream_format = StreamFormat(Filter(), EventStream())
    return [streams.subscriber("any", Start(), stream_format) for _ in range(number)]


def test_streams_are_admitted_up_to_the_limit(services):
    streams = OpenStreams(services, 2)
    first, second, third = make_subscribers(streams, 3)
    assert [streams.admit(each, "a") for each in (first, second, third)] == [True, True, False]
    first.close()
    assert streams.admit(third, "a")


def test_a_stream_that_is_closed_twice_is_counted_once(services):
    streams = OpenStreams(services, 2)
    first, second = make_subscribers(streams, 2)
    assert streams.admit(first, "a")
    assert streams.admit(second, "a")
    first.close()
    first.close()
    assert len(streams) == 1


def test_a_drain_ends_every_stream_and_admits_no_more(services):
    streams = OpenStreams(services, 10)
    *admitted, late = make_subscribers(streams, 6)
    for stream in admitted:
        streams.admit(stream, "a")
    streams.drain(0.01)
    assert {stream.reason for stream in admitted} == {"draining"}
    assert not streams.admit(late, "a")

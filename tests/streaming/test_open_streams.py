"""The open streams of a worker: admission and drain."""

import pytest

from app.streaming.heartbeat import Pulse
from app.streaming.history import History
from app.streaming.open_streams import OpenStreams
from app.streaming.readers import Readers
from app.streaming.sse import EventStream, Filter, View
from app.streaming.subscriber import Start, Surroundings


@pytest.fixture
def around(fake_store) -> Surroundings:
    return Surroundings(fake_store, Readers(fake_store), History(fake_store), Pulse(15.0))


def make(streams: OpenStreams, number: int) -> list:
    view = View(Filter(), EventStream())
    return [streams.subscriber("any", Start(), view) for _ in range(number)]


def test_streams_are_admitted_up_to_the_limit(around):
    streams = OpenStreams(around, 2)
    first, second, third = make(streams, 3)
    assert [streams.admit(each, "a") for each in (first, second, third)] == [True, True, False]
    first.close()
    assert streams.admit(third, "a")


def test_a_stream_that_closes_twice_is_counted_out_once(around):
    streams = OpenStreams(around, 2)
    first, second = make(streams, 2)
    assert streams.admit(first, "a")
    assert streams.admit(second, "a")
    first.close()
    first.close()
    assert len(streams) == 1


def test_a_drain_ends_every_stream_and_admits_no_more(around):
    streams = OpenStreams(around, 10)
    *admitted, late = make(streams, 6)
    for stream in admitted:
        streams.admit(stream, "a")
    streams.drain(0.01)
    assert {stream.reason for stream in admitted} == {"draining"}
    assert not streams.admit(late, "a")

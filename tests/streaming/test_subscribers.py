"""The open streams of a worker: admission and drain."""

import pytest

from app.streaming.heartbeat import Pulse
from app.streaming.history import History
from app.streaming.readers import Readers
from app.streaming.sse import EventStream, Filter, View
from app.streaming.subscriber import Start, Surroundings
from app.streaming.subscribers import Subscribers


@pytest.fixture
def around(fake_store) -> Surroundings:
    return Surroundings(fake_store, Readers(fake_store), History(fake_store), Pulse(15.0))


def make(subscribers: Subscribers, number: int) -> list:
    view = View(Filter(), EventStream())
    return [subscribers.make("any", Start(), view) for _ in range(number)]


def test_streams_are_admitted_up_to_the_limit(around):
    subscribers = Subscribers(around, 2)
    first, second, third = make(subscribers, 3)
    assert [subscribers.admit(each, "a") for each in (first, second, third)] == [True, True, False]
    first.close()
    assert subscribers.admit(third, "a")


def test_a_stream_that_closes_twice_is_counted_out_once(around):
    subscribers = Subscribers(around, 2)
    first, second = make(subscribers, 2)
    assert subscribers.admit(first, "a")
    assert subscribers.admit(second, "a")
    first.close()
    first.close()
    assert len(subscribers) == 1


def test_a_drain_ends_every_stream_and_admits_no_more(around):
    subscribers = Subscribers(around, 10)
    *streams, late = make(subscribers, 6)
    for stream in streams:
        subscribers.admit(stream, "a")
    subscribers.drain(0.01)
    assert {stream.reason for stream in streams} == {"draining"}
    assert not subscribers.admit(late, "a")

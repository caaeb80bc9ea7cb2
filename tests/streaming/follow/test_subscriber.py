"""The subscriber: it sends heartbeats, is written to while parked, and releases everything."""

import contextlib
import gc
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from itertools import dropwhile

import gevent
import pytest
from gevent.socket import socket as GeventSocket

from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.follow.client_socket import ClientSocket
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.replay import Replay
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.wire import progress
from app.streaming.wire.formats import EventStream, Filter, JsonLines, StreamFormat
from app.streaming.wire.frame_batch import FrameBatch, http_chunk
from app.streaming.wire.progress import progress_frame
from tests.servers import wait_until
from tests.streaming.follow.streams import events_of, name_of, subscribe

SSE = EventStream()


@pytest.fixture
def readers(store) -> ReaderPool:
    return make_readers(store)


def test_a_silent_stream_sends_heartbeats(store, readers, run_id):
    subscriber = subscribe(store, readers, run_id, wire=EventStream(), heartbeat_seconds=0.01)
    chunks = subscriber.chunks()
    opening, caught_up, *heartbeats = itertools.islice(chunks, 5)
    assert opening.startswith(b"retry: ")
    assert b"gateway.caught_up" in caught_up
    assert heartbeats == [b": heartbeat\n"] * 3
    subscriber.close()


def test_closing_releases_everything_and_may_be_repeated(store, readers, run_id):
    first, second = (subscribe(store, readers, run_id) for _ in range(2))
    for subscriber in (first, second):
        assert len(list(itertools.islice(subscriber.chunks(), 2))) == 2
    assert len(readers) == 1
    first.close()
    first.close()
    assert len(readers) == 1
    second.close()
    assert len(readers) == 0


def test_a_wake_shortens_one_pause_between_retries_and_no_more(readers, run_id):
    class UnavailableStore(EventStore):
        reads = 0

        def state(self, run_id):
            self.reads += 1
            raise StoreUnavailable("Redis is away")

    store = UnavailableStore()
    subscriber = subscribe(store, readers, run_id, wire=EventStream(), heartbeat_seconds=0.05)
    chunks = subscriber.chunks()
    assert len(list(itertools.islice(chunks, 2))) == 2
    subscriber.wake()
    assert len(list(itertools.islice(chunks, 6))) == 6
    assert store.reads < 10
    subscriber.close()


# Progress


def has_caught_up(chunk: bytes) -> bool:
    return b"caught_up" in chunk


@pytest.mark.parametrize("wire", [EventStream(), EventStream(typed=False), JsonLines()], ids=repr)
def test_a_filtered_stream_whose_position_has_moved_sends_its_progress_as_a_heartbeat(
    store, readers, run_id, wire
):
    subscriber = subscribe(
        store, readers, run_id, wire=wire, categories=["tool"], heartbeat_seconds=0.01
    )
    chunks = subscriber.chunks()
    assert any(map(has_caught_up, chunks))
    last = [store.add(run_id, "llm", "stream") for _ in range(3)][-1]
    # A heartbeat may come between the events.
    expected = wire.frame(progress_frame(run_id, EventId.parse(last)))
    is_last = dropwhile(lambda chunk: last.encode() not in chunk, chunks)
    assert without_timestamp(next(is_last)) == without_timestamp(expected)
    # From then on nothing has moved.
    heartbeat = wire.heartbeat(run_id)
    assert {without_timestamp(next(chunks)) for _ in range(3)} == {without_timestamp(heartbeat)}
    subscriber.close()


def without_timestamp(chunk: bytes) -> bytes:
    return re.sub(rb'"timestamp":"[^"]*"', b"", chunk)


def test_a_stream_that_reads_much_that_its_filter_drops_sends_its_progress_meanwhile(
    store, readers, run_id, monkeypatch
):
    monkeypatch.setattr(progress, "MAX_DROPPED", 50)
    ids = [store.add(run_id, "llm", "stream") for _ in range(300)]
    store.add(run_id, "lifecycle", "completed")
    subscriber = subscribe(store, readers, run_id, categories=["tool"])
    events = list(events_of(subscriber.chunks()))
    cursors = [each["data"]["cursor"] for each in events if name_of(each) == "gateway.progress"]
    assert cursors
    assert cursors == sorted(set(cursors), key=EventId.parse)
    assert set(cursors) <= set(ids)
    assert subscriber.events == 1
    subscriber.close()


def test_an_unfiltered_stream_sends_no_progress(store, readers, run_id):
    for _ in range(3):
        store.add(run_id, "llm", "stream")
    subscriber = subscribe(store, readers, run_id, wire=EventStream(), heartbeat_seconds=0.01)
    chunks = subscriber.chunks()
    assert any(map(has_caught_up, chunks))
    store.add(run_id, "llm", "stream", "live")
    assert any(b"live" in chunk for chunk in chunks)
    assert [next(chunks) for _ in range(3)] == [b": heartbeat\n"] * 3
    subscriber.close()


def test_a_stream_that_cannot_read_its_history_yet_gives_its_client_no_id(
    redis_server, readers, store, run_id
):
    """The id before the first event is no event's, and another log would not know it."""

    class HalfAwayStore(EventStore):
        def entries_after(self, *arguments):
            raise StoreUnavailable("Redis is away")

    store.add(run_id, "llm", "stream")
    subscriber = subscribe(
        HalfAwayStore(redis_server.url), readers, run_id, wire=EventStream(), heartbeat_seconds=0.02
    )
    chunks = list(itertools.islice(subscriber.chunks(), 6))
    assert not any(b"id:" in chunk or b"progress" in chunk for chunk in chunks)
    subscriber.close()


def test_after_a_gap_the_heartbeat_is_the_progress(store, readers, redis_client, run_id):
    """A gap has no id of its own, and nothing may come after it."""
    subscriber = subscribe(store, readers, run_id, wire=EventStream(), heartbeat_seconds=0.01)
    chunks = subscriber.chunks()
    assert any(map(has_caught_up, chunks))
    key = f"run:{run_id}:events"
    with redis_client.pipeline() as pipeline:
        pipeline.xadd(key, {"data": "1"}, id="9999999999999-1")
        pipeline.xdel(key, "9999999999999-1")
        pipeline.execute()
    assert any(b"gateway.gap" in chunk for chunk in chunks)
    assert next(chunks).startswith(b"id: 9999999999999-1\nevent: gateway.progress\n")
    assert next(chunks) == b": heartbeat\n"
    subscriber.close()


# Parked


class Client:
    """The client's end of a connection whose other end a subscriber writes to."""

    def __init__(self, chunked: bool):
        ours, theirs = socket.socketpair()
        self.client_socket = ClientSocket(GeventSocket(fileno=theirs.detach()), chunked)
        self.received = b""
        self._socket = ours
        self._socket.setblocking(False)

    def has_received(self, expected: bytes) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.received += self._socket.recv(65536)
        return expected in self.received

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=[False, True], ids=["plain", "chunked"])
def client_end(request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(chunked=request.param)
    yield client
    client.close()


def deliver(subscriber: Subscriber, client_end: Client) -> None:
    subscriber.deliver_to(client_end.client_socket)
    assert client_end.has_received(b"caught_up")


def test_a_parked_subscriber_counts_the_events_that_it_is_sent(store, readers, run_id, client_end):
    store.add(run_id, "llm", "stream", "history")
    subscriber = subscribe(store, readers, run_id, wire=EventStream())
    deliver(subscriber, client_end)
    for number in range(3):
        store.add(run_id, "llm", "stream", f"live {number}")
        data = json.dumps(f"live {number}").encode()
        wait_until(lambda data=data: client_end.has_received(data), "the event arrives")
    subscriber.close()
    assert (subscriber.events, subscriber.reason) == (4, "closed")


def test_a_parked_subscriber_sends_a_heartbeat_in_the_framing_of_its_body(
    store, readers, run_id, client_end
):
    subscriber = subscribe(store, readers, run_id, wire=EventStream())
    deliver(subscriber, client_end)
    now = time.monotonic()
    assert subscriber.beat(now) > now
    assert not client_end.has_received(b"heartbeat")
    assert subscriber.beat(now + 15) > now + 15
    heartbeat = b": heartbeat\n"
    if client_end.client_socket.chunked:
        heartbeat = b"\r\n" + http_chunk(heartbeat)
    assert client_end.has_received(heartbeat)
    subscriber.close()
    assert subscriber.beat(now + 30) == 0.0


def test_a_stream_that_is_ended_while_it_starts_its_heartbeats_does_not_park(
    store, readers, run_id, client_end, monkeypatch
):
    """The first subscriber of a worker starts a thread there, and other greenlets run."""
    subscriber = subscribe(store, readers, run_id, wire=EventStream())
    monkeypatch.setattr(Heartbeats, "add", lambda heartbeats, parked: parked.end("draining"))
    deliver(subscriber, client_end)
    assert client_end.has_received(b"retry: ")
    assert len(readers) == 0
    assert subscriber.reason == "draining"


def deliver_filtered(store, readers, run_id, client_end, wire=SSE) -> Subscriber:
    subscriber = subscribe(store, readers, run_id, wire=wire, categories=["tool"])
    deliver(subscriber, client_end)
    return subscriber


@pytest.mark.parametrize("wire", [EventStream(), JsonLines()], ids=["sse", "lines"])
def test_a_parked_subscriber_whose_position_has_moved_sends_its_progress(
    store, readers, run_id, client_end, wire
):
    subscriber = deliver_filtered(store, readers, run_id, client_end, wire)
    last = [store.add(run_id, "llm", "stream") for _ in range(3)][-1]
    wait_until(lambda: str(subscriber.position.id) == last, "the feed has read them")
    now = time.monotonic()
    subscriber.beat(now + 15)
    assert client_end.has_received(b'"cursor":"%b"' % last.encode())
    assert client_end.received.count(b'"action":"progress"') == 1
    subscriber.beat(now + 60)
    assert client_end.has_received(b"heartbeat")
    assert client_end.received.count(b'"action":"progress"') == 1
    subscriber.close()


def test_a_parked_subscriber_that_got_an_event_sends_no_progress(
    store, readers, run_id, client_end
):
    subscriber = deliver_filtered(store, readers, run_id, client_end)
    store.add(run_id, "llm", "stream")
    last = store.add(run_id, "tool", "call").encode()
    wait_until(lambda: client_end.has_received(b"id: %b\n" % last), "the event arrives")
    subscriber.beat(time.monotonic() + 60)
    assert client_end.has_received(b"heartbeat")
    assert b"progress" not in client_end.received
    subscriber.close()


def test_a_subscriber_that_was_unparked_and_parked_again_still_knows_what_its_client_has(
    store, readers, run_id, client_end
):
    subscriber = subscribe(store, readers, run_id, wire=EventStream())
    deliver(subscriber, client_end)
    last = store.add(run_id, "tool", "call").encode()
    wait_until(lambda: client_end.has_received(b"id: %b\n" % last), "the event arrives")
    subscriber.unpark(None)

    def has_heartbeat() -> bool:
        gevent.sleep(0.01)  # its greenlet runs
        subscriber.beat(time.monotonic() + 60)
        return client_end.has_received(b"heartbeat")

    wait_until(has_heartbeat, "it is parked again, and sends a heartbeat")
    assert b"progress" not in client_end.received
    subscriber.close()


def test_a_subscriber_that_parks_beside_others_is_told_of_the_progress_that_they_were_sent(
    store, readers, run_id, client_end, request, monkeypatch
):
    """They were sent it while this one had a greenlet."""
    monkeypatch.setattr(progress, "MAX_DROPPED", 3)
    other_end = Client(client_end.client_socket.chunked)
    request.addfinalizer(other_end.close)
    other = deliver_filtered(store, readers, run_id, other_end)
    subscriber = deliver_filtered(store, readers, run_id, client_end)
    subscriber.unpark(None)
    last = [store.add(run_id, "llm", "stream") for _ in range(3)][-1].encode()
    wait_until(lambda: other_end.has_received(b'"cursor":"%b"' % last), "the progress arrives")
    monkeypatch.setattr(progress, "MAX_DROPPED", 1000)

    def has_progress() -> bool:
        gevent.sleep(0.01)
        subscriber.beat(time.monotonic() + 60)
        return client_end.has_received(b'"cursor":"%b"' % last)

    wait_until(has_progress, "it is parked again, and sends its progress")
    for each in (subscriber, other):
        each.close()


# A slow client


def batches_in_memory() -> int:
    return sum(isinstance(each, FrameBatch) for each in gc.get_objects())


def test_a_slow_client_holds_what_it_was_sent_last_and_no_batch(store, readers, run_id):
    for number in range(60):
        store.add(run_id, "llm", "stream", f"{number}" + "x" * 10_000)
    client_end = Client(chunked=True)
    services = Services(store, readers, History(store, max_bytes=0), Heartbeats(15.0))
    replay = Replay(run_id, Start(), services)
    subscriber = Subscriber(replay, StreamFormat(Filter(), SSE), services)
    gc.collect()
    before = batches_in_memory()
    writing = gevent.spawn(subscriber.deliver_to, client_end.client_socket)
    gevent.sleep(0.1)
    assert not writing.dead
    assert batches_in_memory() == before
    until = time.monotonic() + 10
    while not client_end.has_received(b"caught_up") and time.monotonic() < until:
        gevent.sleep(0.001)
    sent = [int(text) for text in re.findall(rb'"data":"(\d+)x', client_end.received)]
    assert sent == list(range(60))
    subscriber.close()
    client_end.close()

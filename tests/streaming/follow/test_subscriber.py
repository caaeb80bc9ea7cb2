"""The subscriber: it sends heartbeats, is written to while parked, and releases everything."""

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Iterator

import pytest
from gevent.socket import socket as GeventSocket

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.follow.client_socket import ClientSocket
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.reader_pool import ReaderPool
from app.streaming.follow.subscriber import Subscriber
from app.streaming.wire.formats import EventStream
from app.streaming.wire.frame_batch import http_chunk
from tests.servers import wait_until
from tests.streaming.follow.streams import subscribe


@pytest.fixture
def readers(store) -> ReaderPool:
    return ReaderPool(store, flush_seconds=0.0)


def test_a_silent_stream_sends_heartbeats(store, readers, run_id):
    subscriber = subscribe(store, readers, run_id, wire=EventStream(), heartbeat_seconds=0.01)
    chunks = subscriber.chunks()
    opening, caught_up, *heartbeats = itertools.islice(chunks, 5)
    assert opening.startswith(b"retry: ")
    assert b"gateway.caught_up" in caught_up
    assert heartbeats == [b": heartbeat\n\n"] * 3
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
    assert client_end.has_received(b"gateway.caught_up")


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
    heartbeat = b": heartbeat\n\n"
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

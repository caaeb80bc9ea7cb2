"""The connections of a worker: which of them are closed when places run short."""

from collections.abc import Iterator
from types import SimpleNamespace

import gevent
import pytest
from gevent import socket

from app.server import connections as connections_module
from app.server.connections import Connections, min_waiting
from tests.clocks import replace_time

PLACES = 10
MIN_WAITING = min_waiting(PLACES)


class Client:
    """A connection that is served in a greenlet: it waits for a byte, and is busy until told."""

    def __init__(self, connections: Connections) -> None:
        self.socket, self._served = socket.socketpair()
        self.requests = 0
        self.closed = False
        self._connections = connections
        self._answered = gevent.event.Event()
        gevent.spawn(connections.serve, self._served, self._serve)
        gevent.sleep(0)

    def request(self) -> None:
        """Send a request, and let it be busy."""
        self.socket.send(b"x")
        requests = self.requests
        while self.requests == requests:
            gevent.sleep(0)

    def answer(self) -> None:
        """End the request: the connection is idle."""
        self._answered.set()
        gevent.sleep(0)

    def _serve(self) -> None:
        while True:
            received = b""
            with self._connections.waiting():
                received = self._served.recv(1)
            if not received:
                break
            self.requests += 1
            self._answered.wait()
            self._answered.clear()
        self._served.close()
        self.closed = True


@pytest.fixture
def connections() -> Iterator[Connections]:
    connections = Connections(PLACES)
    yield connections
    connections.close_idle(-1.0)
    gevent.sleep(0)


@pytest.fixture
def connect(connections) -> Iterator[SimpleNamespace]:
    """Return functions that open connections: silent, idle and busy ones."""
    clients: list[Client] = []

    def silent() -> Client:
        clients.append(Client(connections))
        return clients[-1]

    def busy() -> Client:
        client = silent()
        client.request()
        return client

    def idle() -> Client:
        client = busy()
        client.answer()
        return client

    yield SimpleNamespace(silent=silent, busy=busy, idle=idle)
    for client in clients:
        client.socket.close()
        client.answer()
    gevent.sleep(0.01)


def test_connections_are_counted_while_they_are_served(connections, connect):
    clients = [connect.silent(), connect.idle(), connect.busy()]
    assert len(connections) == 3
    for client in clients:
        client.socket.close()
        client.answer()
    while len(connections):
        gevent.sleep(0)
    assert all(client.closed for client in clients)


def test_the_longest_silent_is_closed_first_and_the_newest_are_left(connections, connect):
    silent = [connect.silent() for _ in range(PLACES + MIN_WAITING)]
    silent += [connect.silent() for _ in range(5)]
    gevent.sleep(0)
    closed = [client.closed for client in silent]
    assert closed == sorted(closed, reverse=True)
    assert len(connections) == closed.count(False) == MIN_WAITING


def test_many_places_leave_many_time_to_send_a_request():
    assert min_waiting(8_000) == 1_000
    assert Connections(8_000).reserve == 2_000


def test_those_that_have_sent_a_request_give_way_to_requests_only(connect):
    idle = [connect.idle() for _ in range(PLACES)]
    silent = [connect.silent() for _ in range(2 * MIN_WAITING)]
    gevent.sleep(0)
    assert any(client.closed for client in silent)
    assert not any(client.closed for client in idle)
    busy = [connect.busy() for _ in range(PLACES)]
    connect.silent()
    gevent.sleep(0)
    assert all(client.closed for client in idle)
    assert not any(client.closed for client in busy)


def test_the_longest_idle_is_closed_first(connect):
    first, second, *rest = (connect.idle() for _ in range(PLACES))
    first.request()
    first.answer()
    connect.busy()
    connect.silent()
    gevent.sleep(0)
    assert second.closed
    assert not first.closed
    assert not any(client.closed for client in rest)


def test_a_connection_whose_request_has_come_is_not_closed(connect):
    first, second, *_ = (connect.idle() for _ in range(PLACES))
    first.socket.send(b"x")  # and nobody has looked at it yet
    connect.busy()
    connect.busy()
    while first.requests < 2:
        gevent.sleep(0)
    assert second.closed
    assert not first.closed


def test_a_worker_is_full_when_more_are_busy_than_there_are_places(connections, connect):
    busy = [connect.busy() for _ in range(PLACES)]
    connect.silent()
    assert not connections.is_full
    one_too_many = connect.busy()
    assert connections.is_full
    one_too_many.answer()
    assert not connections.is_full
    assert not any(client.closed for client in busy)


def test_a_hijacked_connection_counts_until_it_is_closed(connections):
    closed: list[object] = []
    served, client = socket.socketpair()
    with served, client:
        greenlet = gevent.spawn(
            connections.serve, served, lambda: closed.append(connections.hijack())
        )
        greenlet.join()
        assert len(connections) == 1
        [close] = closed
        close()
        assert len(connections) == 0


def test_what_waits_for_too_long_is_closed(connections, connect, monkeypatch):
    now = 1000.0
    replace_time(monkeypatch, connections_module, monotonic=lambda: now)
    old = [connect.silent(), connect.idle()]
    busy = connect.busy()
    now += 10
    new = [connect.silent(), connect.idle()]
    now += 1
    connections.close_idle(5)
    gevent.sleep(0)
    assert [client.closed for client in (*old, busy, *new)] == [True, True, False, False, False]

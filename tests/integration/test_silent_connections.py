"""Connections that are silent or idle: they take no place from a client that has a request."""

import contextlib
import select
import signal
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest
import requests

from tests.clients import Stream
from tests.raw_http import read_until
from tests.servers import GatewayServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK = b'{"status":"ok"}'

# What clients may send of a request before they fall silent, and what comes back of it.
BEGINNINGS = {
    "silent": b"",
    "a part of a head": b"GET /healthz HTTP/1.1\r\nHo",
    "kept alive": HEALTH,
    "kept alive, and a part of a head": HEALTH + b"GET /",
}


@pytest.fixture(scope="module")
def few_files(redis_server, tmp_path_factory) -> Iterator[GatewayServer]:
    """Start a gateway whose worker may have only 256 files open."""
    with GatewayServer(redis_server.url, tmp_path_factory.mktemp("gateway") / "log") as gateway:
        [former] = gateway.workers()
        psutil.Process(gateway.process.pid).rlimit(psutil.RLIMIT_NOFILE, (256, 256))
        gateway.process.send_signal(signal.SIGHUP)
        former.wait(20)
        yield gateway


@pytest.fixture
def connect() -> Iterator[Callable[[GatewayServer, bytes], socket.socket]]:
    with contextlib.ExitStack() as stack:

        def connect(gateway: GatewayServer, sent: bytes) -> socket.socket:
            address = "127.0.0.1", gateway.port
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            connection.sendall(sent)
            if sent.startswith(HEALTH):
                read_until(connection, OK)
            return connection

        yield connect


def is_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        return bool(poll.poll(0)) and not connection.recv(65536)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_the_connections_that_wait_longest_are_closed_for_others(
    few_files, connect, run_id, beginning
):
    with Stream(f"{few_files.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        waiting = [connect(few_files, beginning) for _ in range(500)]
        for number in range(1, 11):
            assert requests.get(f"{few_files.url}/healthz", timeout=20).ok
            assert requests.get(f"{few_files.url}/readyz", timeout=20).ok
            url = f"{few_files.url}/runs/{run_id}/events"
            assert requests.post(url, json=EVENT, timeout=20).status_code == 201
            stream.wait_for_events(number)
        assert not stream.ended
        wait_until(lambda: is_closed(waiting[0]), "the one that waits longest is closed")
        assert not is_closed(waiting[-1])
        newest = waiting[-1]
        newest.sendall(HEALTH.removeprefix(beginning.removeprefix(HEALTH)))
        read_until(newest, OK)


def test_busy_connections_leave_places_for_health_checks(few_files, connect, run_id):
    """Bodies that arrive, streams, and requests beyond what the files allow."""
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
    slow = f"{head}application/json\r\nContent-Length: 100\r\n\r\n{{".encode()
    lines = f"{head}application/x-ndjson\r\nContent-Length: 100\r\n\r\n{{".encode()
    stream = f"GET /runs/{run_id}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for sent in (slow, lines, stream, b""):
        for _ in range(200):
            connect(few_files, sent)
        for path in ("/healthz", "/readyz"):
            assert requests.get(few_files.url + path, timeout=20).ok, sent

    def append() -> int:
        url = f"{few_files.url}/runs/{run_id}/events"
        return requests.post(url, json=EVENT, timeout=20).status_code

    # Those beyond the places are busy until they are refused, which takes a moment.
    wait_until(lambda: append() == 201, "others have a place too")


def test_an_idle_connection_is_closed_after_keepalive_seconds(start_gateway, connect):
    gateway = start_gateway(KEEPALIVE_SECONDS=1)
    connections = [connect(gateway, beginning) for beginning in BEGINNINGS.values()]
    for connection in connections:
        wait_until(lambda connection=connection: is_closed(connection), "it is closed")


def test_idle_connections_do_not_delay_a_stop(start_gateway, connect):
    gateway = start_gateway(DRAIN_SECONDS=60)
    for beginning in BEGINNINGS.values():
        connect(gateway, beginning)
    assert gateway.stop(signal.SIGTERM) == 0  # within less than the 60 seconds

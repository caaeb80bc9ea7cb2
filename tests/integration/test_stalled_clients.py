"""Clients that stop reading or sending: they are disconnected, and cost no memory."""

import contextlib
import http.client
import random
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from app.streaming.follow import history
from app.streaming.follow.client_socket import MAX_BACKLOG_BYTES
from tests.clients import Stream
from tests.raw_http import read_to_end, request_stream, stream_path
from tests.servers import wait_until

STALLED = 500
MEGABYTE = 1024 * 1024
# What the history and the backlog may hold, and a little for each stream.
MAX_MEGABYTES = (history.MAX_BYTES + MAX_BACKLOG_BYTES) / MEGABYTE + STALLED * 0.02


def read_some(connections: dict[socket.socket, int], seconds: float) -> None:
    """Read so many bytes from each connection, from all at the same time, and then no more."""
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while connections and time.monotonic() < until:
            for key, _ in selector.select(1):
                connections[key.fileobj] -= len(key.fileobj.recv(65536))
                if connections[key.fileobj] <= 0:
                    selector.unregister(key.fileobj)
                    del connections[key.fileobj]


def test_clients_that_stall_anywhere_in_a_busy_run_cost_bounded_memory(
    start_gateway, store, run_id
):
    """Each stalls at a place of its own, with other bytes unsent than those of the others."""
    gateway = start_gateway()
    [worker] = gateway.workers()
    with contextlib.ExitStack() as stack:
        stalled: dict[socket.socket, int] = {}
        for _ in range(STALLED):
            connection = request_stream(gateway.port, stream_path(run_id), receive_buffer=4096)
            stack.enter_context(connection)
            assert connection.recv(100)
            stalled[connection] = random.randrange(20_000_000)
        fast = stack.enter_context(Stream(f"{gateway.url}{stream_path(run_id)}"))
        fast.wait_for_control("caught_up")
        before = worker.memory_info().rss
        reading = stack.enter_context(ThreadPoolExecutor(1)).submit(read_some, stalled, 20)
        for number in range(2000):
            store.add(run_id, "llm", "stream", f"{number}" + "x" * 10_000)
            if number % 100 == 99:
                fast.wait_for_events(number + 1)
        reading.result()
        assert (worker.memory_info().rss - before) / MEGABYTE < MAX_MEGABYTES
        assert requests.get(f"{gateway.url}/healthz", timeout=20).ok


def test_clients_that_stall_in_the_history_share_the_memory_of_one(start_gateway, store, run_id):
    gateway = start_gateway()
    for _ in range(2000):
        store.add(run_id, "llm", "stream", "x" * 10_000)
    [worker] = gateway.workers()
    with Stream(f"{gateway.url}{stream_path(run_id)}") as fast, contextlib.ExitStack() as stalled:
        fast.wait_for_control("caught_up")
        before = worker.memory_info().rss
        for _ in range(STALLED):
            connection = request_stream(gateway.port, stream_path(run_id), receive_buffer=4096)
            stalled.enter_context(connection)
            connection.recv(100)
        store.add(run_id, "llm", "stream", "live")
        fast.wait_for_events(2001)
        assert (worker.memory_info().rss - before) / MEGABYTE < 60


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_reads_nothing_for_too_long_is_disconnected_and_no_other(
    impatient_gateway, store, run_id, version
):
    with (
        request_stream(
            impatient_gateway.port, stream_path(run_id), version, receive_buffer=4096
        ) as stalled,
        Stream(f"{impatient_gateway.url}{stream_path(run_id)}") as silent,
    ):
        silent.wait_for_control("caught_up")
        assert stalled.recv(100)
        for _ in range(100):
            store.add(run_id, "llm", "stream", "x" * 50_000)
        end = f"stream ended run={run_id} client=127.0.0.1 reason=stalled"
        wait_until(lambda: end in impatient_gateway.log.read_text(), "it is disconnected")
        silent.wait_for_events(100)
        received = read_to_end(stalled)
        assert not received.endswith(b"0\r\n\r\n"), "a broken stream must not look complete"
        store.add(run_id, "llm", "stream", "after")
        silent.wait_for_events(101)
        assert impatient_gateway.log.read_text().count(f"stream ended run={run_id} ") == 1


def test_a_body_that_takes_too_long_is_refused_with_408(impatient_gateway, run_id):
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
    )
    with socket.create_connection(("127.0.0.1", impatient_gateway.port), timeout=20) as slow:
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert requests.get(f"{impatient_gateway.url}/runs/{run_id}").status_code == 404


def test_a_kept_connection_may_be_idle_for_longer_than_a_client_may_stall(impatient_gateway):
    connection = http.client.HTTPConnection("127.0.0.1", impatient_gateway.port, timeout=20)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"status":"ok"}'
            answered = time.monotonic()
            wait_until(lambda since=answered: time.monotonic() > since + 2, "it was idle")


@pytest.mark.parametrize("pages", [1, 30])
def test_a_client_that_does_not_read_its_page_is_disconnected_and_frees_memory(
    impatient_gateway, store, run_id, pages
):
    for number in range(40):
        store.add(run_id, "llm", "stream", f"{number}" + "x" * 200_000)
    request = f"GET /runs/{run_id}/events?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(pages):
            idle = socket.create_connection(("127.0.0.1", impatient_gateway.port), timeout=20)
            stack.enter_context(idle)
            idle.sendall(request)
        wait_until(lambda: impatient_gateway.client_count() == 0, "all are disconnected")
        assert requests.get(f"{impatient_gateway.url}/runs/{run_id}/events?limit=1000").ok

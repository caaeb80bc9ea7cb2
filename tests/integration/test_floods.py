"""Connections and bodies without end: the gateway still serves all other clients."""

import contextlib
import json
import multiprocessing
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import requests

from app.streaming.redis.redis_url import POOL_SIZE
from tests.clients import Stream
from tests.raw_http import reset
from tests.servers import GatewayServer, RedisServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}


def stream_url(gateway: GatewayServer, run_id: str) -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream"


def append(gateway: GatewayServer, run_id: str, **event: object) -> requests.Response:
    return requests.post(f"{gateway.url}/runs/{run_id}/events", json={**EVENT, **event}, timeout=20)


@pytest.fixture(scope="module")
def few_files(redis_server, tmp_path_factory) -> Iterator[GatewayServer]:
    """Start a gateway whose worker may have only 256 files open."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(redis_server.url, log) as gateway:
        [former] = gateway.workers()
        psutil.Process(gateway.process.pid).rlimit(psutil.RLIMIT_NOFILE, (256, 256))
        gateway.process.send_signal(signal.SIGHUP)
        former.wait(20)
        yield gateway


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "text/plain"])
def test_slow_bodies_are_refused_before_descriptors_run_out(few_files, run_id, kind):
    request = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 100000\r\n\r\n{{"
    ).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            connection = socket.create_connection(("127.0.0.1", few_files.port), timeout=20)
            stack.enter_context(connection)
            connection.sendall(request)
        assert requests.get(f"{few_files.url}/healthz", timeout=20).status_code == 200
        assert append(few_files, run_id).status_code == 201


def test_streams_are_refused_before_descriptors_run_out(few_files, run_id):
    """The limit of open files counts, even below MAX_STREAMS."""
    request = (
        f"GET /runs/{run_id}/events/stream HTTP/1.1\r\nHost: localhost\r\n"
        "Accept: text/event-stream\r\nConnection: close\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            connection = socket.create_connection(("127.0.0.1", few_files.port), timeout=20)
            stack.enter_context(connection)
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert requests.get(f"{few_files.url}/healthz", timeout=20).status_code == 200
        assert append(few_files, run_id).status_code == 201


@pytest.mark.parametrize("body", [None, b"x", b"x" * 60_000], ids=["health", "small", "large"])
def test_a_client_that_pipelines_without_end_delays_no_other_client(gateway, run_id, body):
    """Its requests need no Redis, so the worker never waits between them."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    if body is not None:
        head = (
            f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
    block = request * (200_000 // len(request) + 1)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as greedy:

        def receive() -> None:
            with contextlib.suppress(OSError):
                while greedy.recv(1 << 20):
                    pass

        def send() -> None:
            with contextlib.suppress(OSError):
                while True:
                    greedy.sendall(block)

        threads = [threading.Thread(target=each) for each in (receive, send)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                assert requests.get(f"{gateway.url}/healthz", timeout=20).ok
                assert append(gateway, run_id).status_code == 201
        finally:
            greedy.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(20)


def test_appends_with_slow_bodies_keep_out_no_complete_append(start_gateway, run_id):
    gateway = start_gateway()
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
    )
    event = b'{"event_category": "llm", "event_action": "stream"}'
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
            return stack.enter_context(connection)

        slow = [connect() for _ in range(1510)]
        for connection in slow:
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        producer = connect()
        for _ in range(20):
            producer.sendall(f"{head}Content-Length: {len(event)}\r\n\r\n".encode() + event)
            assert producer.recv(65536).startswith(b"HTTP/1.1 201 ")
            assert requests.get(f"{gateway.url}/healthz", timeout=20).status_code == 200
        answered = select.poll()
        for connection in slow:
            answered.register(connection, select.POLLIN)
        wait_until(lambda: len(answered.poll(0)) >= 10, "those too many are refused")
        too_many = [descriptor for descriptor, _ in answered.poll(0)]
        assert len(too_many) == 10
        for connection in slow:
            if connection.fileno() in too_many:
                assert connection.recv(65536).startswith(b"HTTP/1.1 429 ")


# The pool, and one each for appends, for the reader and for the waker.
MAX_REDIS_CONNECTIONS = POOL_SIZE + 3


def open_and_drop(port: int, connections: int, seconds: float) -> None:
    """Open connections over some seconds, and drop each in another state of its request."""
    requests_ = [
        "",
        "GET /runs/dropped-{0}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /runs/dropped/events HTTP/1.1\r\nHost: localhost\r\nContent-Le",
        "POST /runs/dropped/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n{{",
    ]
    began = time.monotonic()
    for number in range(connections):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(requests_[number % 4].format(number % 160).encode())
            if number % 8 < 4:
                reset(connection)
        due = began + seconds * number / connections
        wait_until(lambda due=due: time.monotonic() >= due, "the next is due")


def test_a_thousand_dropped_connections_a_second_harm_no_other_client(
    redis_server, start_gateway, run_id
):
    gateway = start_gateway()
    [worker] = gateway.workers()
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        open_and_drop(gateway.port, 400, 0.4)  # warms up
        before = _settled(worker, redis_server)
        dropping = multiprocessing.get_context("spawn").Process(
            target=open_and_drop, args=(gateway.port, 1500, 1.5)
        )
        dropping.start()
        appended = 0
        while dropping.is_alive():
            assert requests.get(f"{gateway.url}/healthz", timeout=20).status_code == 200
            assert append(gateway, run_id).status_code == 201
            appended += 1
            stream.wait_for_events(appended)
        assert dropping.exitcode == 0
        assert appended >= 1
        wait_until(lambda: _descriptors(worker, redis_server) <= before, f"back to {before}")
        assert _redis_connections(worker, redis_server) <= MAX_REDIS_CONNECTIONS
        assert not stream.ended
    gateway.stop()
    log = gateway.log.read_text()
    assert log.count("stream opened") > 300
    assert log.count("stream opened") == log.count("stream ended")


def _descriptors(worker: psutil.Process, redis: RedisServer) -> int:
    """Return how many descriptors a worker has beside its connections to Redis.

    Those are made when they are first needed, and the pool keeps them.
    """
    return worker.num_fds() - _redis_connections(worker, redis)


def _redis_connections(worker: psutil.Process, redis: RedisServer) -> int:
    connections = worker.net_connections(kind="tcp")
    return sum(each.raddr[1:] == (redis.port,) for each in connections)


def _settled(worker: psutil.Process, redis: RedisServer) -> int:
    wait_until(
        lambda: (
            sum(len(each.raddr) > 0 for each in worker.net_connections(kind="tcp"))
            == _redis_connections(worker, redis) + 1
        ),
        "one client is left",
    )
    return _descriptors(worker, redis)


def test_a_body_right_after_its_head_is_stored_while_slow_bodies_take_all_places(few_files, run_id):
    """Many clients send the head and the body in two packets."""
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\nContent-Length: {0}\r\n\r\n"
    )
    body = json.dumps(EVENT).encode()
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            address = "127.0.0.1", few_files.port
            return stack.enter_context(socket.create_connection(address, timeout=20))

        for _ in range(30):
            connect().sendall(head.format(100_000).encode() + b"{")
        for _ in range(20):
            producer = connect()
            producer.sendall(head.format(len(body)).encode())
            sent = time.monotonic()  # the packets are to arrive one by one
            wait_until(lambda sent=sent: time.monotonic() > sent + 0.01, "the head has arrived")
            producer.sendall(body)
            assert producer.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_the_latest_of_many_bodies_that_are_late_has_its_moment(few_files, run_id):
    """A flood right before it takes all places, those of bodies that come in a moment too."""
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\nContent-Length: {0}\r\n\r\n"
    )
    body = json.dumps(EVENT).encode()
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            address = "127.0.0.1", few_files.port
            return stack.enter_context(socket.create_connection(address, timeout=20))

        for _ in range(10):
            for _ in range(100):
                connect().sendall(head.format(100_000).encode() + b"{")
            producer = connect()
            producer.sendall(head.format(len(body)).encode())
            sent = time.monotonic()  # the packets are to arrive one by one
            wait_until(lambda sent=sent: time.monotonic() > sent + 0.05, "the head has arrived")
            producer.sendall(body)
            assert producer.recv(65536).startswith(b"HTTP/1.1 201 ")

"""The connections of followers: HEAD, disconnects, pipelining, slow clients, and those to Redis."""

import socket
import threading
import time

import psutil
import redis
import requests

from tests.clients import Stream
from tests.raw_http import read_until
from tests.servers import GatewayServer, wait_until


def stream_url(gateway: GatewayServer, run_id: str, query: str = "") -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream?{query}"


def test_head_has_the_headers_and_joins_nothing(gateway, run_id):
    answer = requests.head(stream_url(gateway, run_id))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert requests.head(stream_url(gateway, run_id, "tail=x")).status_code == 400


def test_a_client_that_disconnects_is_noticed_before_any_heartbeat(start_gateway, store, run_id):
    gateway = start_gateway(HEARTBEAT_SECONDS=3600)
    store.add(run_id, "llm", "stream")
    streams = [Stream(stream_url(gateway, run_id)) for _ in range(20)]
    for stream in streams:
        stream.wait_for_control("caught_up")
    assert gateway.client_count() >= 20
    for stream in streams:
        stream.close()
    wait_until(lambda: gateway.client_count() == 0, "the sockets are closed")
    ended = f"stream ended run={run_id} client=127.0.0.1 reason=disconnected"
    wait_until(lambda: gateway.log.read_text().count(ended) == 20, "the ends are in the log")


def test_a_pipelined_request_neither_ends_a_stream_nor_uses_cpu(gateway, store, run_id):
    """It gets no answer: the stream's header announces that the connection closes at its end."""
    [worker] = gateway.workers()
    request = f"GET /runs/{run_id}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(request)
        received = read_until(connection, b"gateway.caught_up")
        assert b"\r\nConnection: close\r\n" in received
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        used = sum(worker.cpu_times()[:2])
        time.sleep(0.5)
        assert sum(worker.cpu_times()[:2]) - used < 0.25
        store.add(run_id, "lifecycle", "completed")
        received = read_until(connection, b"0\r\n\r\n")
    assert b"lifecycle.completed" in received


def test_connections_to_redis_do_not_grow_with_the_subscribers(start_gateway, store, redis_client):
    """2,000 subscribers over 200 runs on one worker."""
    gateway = start_gateway()
    runs = [f"many-{number}" for number in range(200)]
    sockets: list[socket.socket] = []
    try:
        before = _connections(redis_client, gateway)
        for number in range(2000):
            connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
            path = f"/runs/{runs[number % 200]}/events/stream"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            sockets.append(connection)
        for connection in sockets:
            read_until(connection, b"gateway.caught_up")
        open_now = _connections(redis_client, gateway) - before
        assert open_now <= 4 + 16 + 2  # 64 runs a reader, the pool, the waker and one spare
        for run in runs:
            store.add(run, "lifecycle", "completed", run)
        for number, connection in enumerate(sockets):
            read_until(connection, f'"data":"{runs[number % 200]}"'.encode())
    finally:
        for connection in sockets:
            connection.close()


def _connections(client: redis.Redis, gateway: GatewayServer) -> int:
    """Return how many connections a gateway's worker holds to Redis."""
    port = client.connection_pool.connection_kwargs["port"]
    [worker] = gateway.workers()
    return sum(
        connection.raddr[1:] == (port,) and connection.status == psutil.CONN_ESTABLISHED
        for connection in worker.net_connections(kind="tcp")
    )


def test_a_client_that_does_not_read_delays_no_other_stream(gateway, store, run_id):
    """It gets more than its buffers hold."""
    request = f"GET /runs/{run_id}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with (
        socket.create_connection(("127.0.0.1", gateway.port)) as stalled,
        Stream(stream_url(gateway, run_id)) as stream,
    ):
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(request)
        stream.wait_for_control("caught_up")
        producer = threading.Thread(
            target=lambda: [store.add(run_id, "llm", "stream", "x" * 50_000) for _ in range(200)]
        )
        producer.start()
        stream.wait_for_events(200)
        producer.join()
    assert stream.sequences == list(range(1, 201))

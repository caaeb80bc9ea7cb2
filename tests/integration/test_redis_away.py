"""The gateway while Redis is stopped, killed or paused, and afterwards."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import DURABLE, GatewayServer, RedisServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(scope="module")
def shared_gateway(server, tmp_path_factory) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(server.url, log, HEARTBEAT_SECONDS=1) as gateway:
        yield gateway


@pytest.fixture
def durable_redis(server) -> Iterator[RedisServer]:
    """Return the server, and replace it after the test, so that no outage outlives its test."""
    yield server
    server.stop()
    server.start()


@pytest.fixture
def gateway(durable_redis, shared_gateway) -> GatewayServer:
    """Return the gateway once it is ready."""
    ready = f"{shared_gateway.url}/readyz"
    wait_until(lambda: requests.get(ready, timeout=20).ok, "the gateway is ready")
    return shared_gateway


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_requests_are_refused_in_time_while_redis_is_away(durable_redis, gateway, run_id, fault):
    getattr(durable_redis, fault)()
    url = f"{gateway.url}/runs/{run_id}"
    for method, path, body in [
        ("POST", "/events", EVENT),
        ("GET", "/events", None),
        ("GET", "", None),
        ("DELETE", "/events", None),
    ]:
        began = time.monotonic()
        answer = requests.request(method, url + path, json=body, timeout=20)
        assert answer.status_code == 503, (method, path)
        assert time.monotonic() - began < 10
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
    assert requests.get(f"{gateway.url}/readyz", timeout=20).status_code == 503
    assert requests.get(f"{gateway.url}/healthz", timeout=20).status_code == 200


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_open_streams_survive_an_outage_and_go_on_from_their_cursor(
    durable_redis, gateway, run_id, fault
):
    store = EventStore(durable_redis.url)
    store.add(run_id, "llm", "stream")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        getattr(durable_redis, fault)()
        heartbeats = len(stream.comments)
        wait_until(lambda: len(stream.comments) >= heartbeats + 3, "heartbeats go on")
        if fault == "stop":
            durable_redis.start()
        else:
            durable_redis.resume()
        for _ in range(3):
            store.add(run_id, "llm", "stream")
        stream.wait_for_events(4)
        assert not stream.ended
    assert stream.sequences == [1, 2, 3, 4]
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


def test_a_stream_opened_without_redis_gets_everything_once_redis_is_back(
    durable_redis, gateway, run_id
):
    EventStore(durable_redis.url).add(run_id, "llm", "stream")
    durable_redis.stop()
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        assert stream.status == 200
        wait_until(lambda: len(stream.comments) >= 3, "heartbeats")
        durable_redis.start()
        stream.wait_for_control("caught_up")
    assert stream.sequences == [1]
    wait_until(lambda: requests.get(f"{gateway.url}/readyz").ok, "ready again")


def test_the_first_append_after_a_restart_succeeds(durable_redis, gateway, run_id):
    """The pool's connections are dead, and the new server does not know the script."""
    url = f"{gateway.url}/runs/{run_id}/events"
    assert requests.post(url, json=EVENT).json()["sequence"] == 1
    durable_redis.stop()
    durable_redis.start()
    answers = [requests.post(url, json=EVENT) for _ in range(3)]
    assert [answer.json()["sequence"] for answer in answers] == [2, 3, 4]


class Relay:
    """A proxy between the gateway and Redis that can let open connections die silently."""

    def __init__(self, port: int):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._live = threading.Event()  # for the connections that are open now
        self._live.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def forget_connections(self) -> None:
        """Keep open connections open, but pass nothing on. New connections work."""
        live, self._live = self._live, threading.Event()
        self._live.set()
        live.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in [self._listener, *self._sockets]:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._carry, args=(source, sink, self._live), daemon=True
                    ).start()

    def _carry(self, source: socket.socket, sink: socket.socket, live: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and live.is_set():
                sink.sendall(data)
            if live.is_set():
                sink.shutdown(socket.SHUT_WR)


def test_connections_that_died_silently_are_replaced_and_no_event_is_missed(
    redis_server, start_gateway, store, run_id
):
    relay = Relay(redis_server.port)
    gateway = start_gateway(relay.url)
    url = f"{gateway.url}/runs/{run_id}/events"
    try:
        requests.post(url, json=EVENT, timeout=20).raise_for_status()
        with Stream(f"{url}/stream") as stream:
            stream.wait_for_control("caught_up")
            relay.forget_connections()
            store.add(run_id, "llm", "stream")
            refused = requests.post(url, json=EVENT, timeout=20)
            assert (refused.status_code, refused.json()["stored"]) == (503, "unknown")
            requests.post(url, json=EVENT, timeout=20).raise_for_status()
            stream.wait_for_events(3)
            assert stream.sequences == [1, 2, 3]
            assert len(stream.controls) == 1
    finally:
        relay.close()


WRITES_REFUSED = {
    "a full memory": (
        ("CONFIG", "SET", "maxmemory", 1),
        ("CONFIG", "SET", "maxmemory", 0),
    ),
    "a pause of writes": (("CLIENT", "PAUSE", 60_000, "WRITE"), ("CLIENT", "UNPAUSE")),
    "a former master": (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")),
}


@pytest.mark.parametrize(("begin", "end"), WRITES_REFUSED.values(), ids=WRITES_REFUSED)
def test_readyz_is_503_while_redis_refuses_writes(durable_redis, gateway, run_id, begin, end):
    def status(method: str, path: str, body: object = None) -> int:
        answer = requests.request(method, gateway.url + path, json=body, timeout=20)
        return answer.status_code

    path = f"/runs/{run_id}/events"
    assert (status("POST", path, EVENT), status("GET", "/readyz")) == (201, 200)
    with durable_redis.client() as client:
        client.execute_command(*begin)
        assert (status("POST", path, EVENT), status("GET", "/readyz")) == (503, 503)
        assert status("GET", "/healthz") == 200
        client.execute_command(*end)
    wait_until(lambda: status("GET", "/readyz") == 200, "it is ready again")
    assert status("POST", path, EVENT) == 201

"""Delivery over real connections: framing, slow clients, herds, and both ways of delivery."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import redis
import requests
from werkzeug.serving import make_server

from app import create_app
from app.settings import Settings
from tests.clients import Stream
from tests.raw_http import ChunkReader, read_to_end, read_until, request_stream, stream_path

# Framing


def test_an_http_1_0_client_gets_a_plain_body_that_the_close_ends(gateway, store, run_id):
    store.add(run_id, "llm", "stream", "history")
    with request_stream(gateway.port, stream_path(run_id), "1.0") as connection:
        received = read_until(connection, b"gateway.caught_up")
        store.add(run_id, "llm", "stream", "live")
        received += read_until(connection, b'"live"')
        store.add(run_id, "lifecycle", "completed")
        received += read_to_end(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"retry: ")
    assert b"\r" not in body
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    assert [block.partition(b"event: ")[2].partition(b"\n")[0] for block in blocks] == [
        b"llm.stream", b"gateway.caught_up", b"llm.stream", b"lifecycle.completed",
    ]  # fmt: skip


def test_an_http_1_1_client_gets_chunks_and_the_last_chunk(gateway, store, run_id):
    store.add(run_id, "llm", "stream", "history")
    with request_stream(gateway.port, stream_path(run_id)) as connection:
        received = read_until(connection, b"gateway.caught_up")
        store.add(run_id, "llm", "stream", "live")
        store.add(run_id, "lifecycle", "completed")
        received += read_to_end(connection)
    chunks = ChunkReader()
    body = chunks.read(received.partition(b"\r\n\r\n")[2])
    assert chunks.ended
    assert body.count(b"\nevent: ") == 4


# Slow clients


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_slow_client_gets_every_event_and_delays_no_other_client(gateway, store, run_id, version):
    events, size = 300, 2000
    with (
        request_stream(gateway.port, stream_path(run_id), version, receive_buffer=4096) as slow,
        Stream(f"{gateway.url}{stream_path(run_id)}") as fast,
    ):
        fast.wait_for_control("caught_up")
        for number in range(events):
            store.add(run_id, "llm", "stream", f"{number}:" + "x" * size)
        store.add(run_id, "lifecycle", "completed")
        fast.wait_for_end()
        assert fast.sequences == list(range(1, events + 2))
        received = b""
        while piece := slow.recv(1024):
            received += piece
            time.sleep(0.001)
    body = received.partition(b"\r\n\r\n")[2]
    if version == "1.1":
        chunks = ChunkReader()
        body = chunks.read(body)
        assert chunks.ended
    blocks = [block for block in body.decode().split("\n\n") if '"sequence":' in block]
    sent = [json.loads(block.partition("data: ")[2])["sequence"] for block in blocks]
    assert [number for number in sent if number] == list(range(1, events + 2))


# Herds


def xranges(client: redis.Redis) -> int:
    """Return how many XRANGE commands the server has run."""
    return client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_hundred_clients_that_reconnect_at_once_read_the_log_once(
    gateway, store, redis_client, run_id, resumed
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(2000)]
    headers = {"Last-Event-ID": ids[9]} if resumed else {}
    first = 11 if resumed else 1
    before = xranges(redis_client)
    with contextlib.ExitStack() as connections:
        herd = [
            connections.enter_context(
                request_stream(gateway.port, stream_path(run_id), "1.0", headers)
            )
            for _ in range(100)
        ]
        for connection in herd:
            received = bytearray()
            while b"gateway.caught_up" not in received[-1000:]:
                piece = connection.recv(1024 * 1024)
                assert piece
                received += piece
            found = re.findall(rb'"sequence":([0-9]+)', received)
            assert list(map(int, found)) == list(range(first, 2001))
    checks_of_cursors = len(herd) if resumed else 0
    # Some ten pages, and for each a look at the entry before it.
    assert xranges(redis_client) - before < 40 + checks_of_cursors


def test_a_cursor_between_two_events_hides_no_event_from_other_clients(gateway, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(10)]
    cursor = f"{ids[4]}9"  # above the fifth event, and below the sixth
    url = f"{gateway.url}{stream_path(run_id)}"
    with Stream(url, {"Last-Event-ID": cursor}) as stream:
        stream.wait_for_control("caught_up")
        with Stream(url, {"Last-Event-ID": ids[4]}) as resumed, Stream(url) as whole:
            resumed.wait_for_control("caught_up")
            whole.wait_for_control("caught_up")
    assert resumed.sequences == [6, 7, 8, 9, 10]
    assert whole.sequences == list(range(1, 11))


# Both ways of delivery


@pytest.fixture(params=["client_socket", "generator"])
def any_server(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """Run the test under gunicorn (client sockets) and under a threaded server (generators)."""
    if request.param == "client_socket":
        yield request.getfixturevalue("gateway")
        return
    redis_server = request.getfixturevalue("redis_server")
    app = create_app(Settings(redis_url=redis_server.url, drain_seconds=0))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.port}", port=server.port)
    app.extensions["tailrace"].drain()
    server.shutdown()
    thread.join()
    server.server_close()


def names_of(stream: Stream) -> list[str]:
    return [message.event for message in stream.messages]


def test_both_ways_deliver_history_live_events_and_the_end(any_server, store, run_id):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Stream(f"{any_server.url}{stream_path(run_id)}") as stream:
        stream.wait_for_control("caught_up")
        for number in range(50):
            store.add(run_id, "llm", "stream", number)
        stream.wait_for_events(250)
        store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    assert stream.error is None
    assert stream.sequences == list(range(1, 252))
    assert names_of(stream).index("gateway.caught_up") >= 200
    assert names_of(stream)[-1] == "lifecycle.completed"
    header = {"Last-Event-ID": stream.last_event_id}
    assert requests.get(f"{any_server.url}{stream_path(run_id)}", headers=header).status_code == 204


def test_both_ways_filter_alike(any_server, store, run_id):
    store.add(run_id, "tool", "call")
    store.add(run_id, "llm", "stream")
    with Stream(f"{any_server.url}{stream_path(run_id, 'category=llm&typed=false')}") as stream:
        caught_up = stream.wait_for_control("caught_up")
        assert caught_up.last_event_id == store.get_events(run_id)[-1].id
        for category in ("tool", "llm", "tool"):
            store.add(run_id, category, "a")
        store.add(run_id, "lifecycle", "failed")
        stream.wait_for_end()
    assert stream.sequences == [2, 4, 6]
    assert set(names_of(stream)) == {"message"}


def test_both_ways_resume_at_a_cursor(any_server, store, run_id):
    url = f"{any_server.url}{stream_path(run_id)}"
    for number in range(5):
        store.add(run_id, "llm", "stream", number)
    with Stream(url) as first:
        first.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream", 5)
        first.wait_for_events(6)
    store.add(run_id, "llm", "stream", 6)
    with Stream(url, {"Last-Event-ID": first.last_event_id}) as second:
        second.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream", 7)
        second.wait_for_events(2)
    assert first.sequences + second.sequences == list(range(1, 9))


def test_both_ways_report_a_log_that_was_deleted_and_started_again(any_server, store, run_id):
    store.add(run_id, "llm", "stream", "old")
    with Stream(f"{any_server.url}{stream_path(run_id)}") as stream:
        stream.wait_for_control("caught_up")
        store.delete(run_id)
        store.add(run_id, "llm", "stream", "new")
        stream.wait_for_events(2)
    assert names_of(stream) == ["llm.stream", "gateway.caught_up", "gateway.reset", "llm.stream"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_drain_ends_streams_with_a_complete_body_and_a_retry(
    start_gateway, store, run_id, accept
):
    gateway = start_gateway(DRAIN_SECONDS=2)
    connections = [
        request_stream(gateway.port, stream_path(run_id), headers={"Accept": accept})
        for _ in range(20)
    ]
    heads = [read_until(connection, b"caught_up") for connection in connections]
    gateway.stop(15)
    for connection, head in zip(connections, heads, strict=True):
        with connection:
            chunks = ChunkReader()
            body = chunks.read((head + read_to_end(connection)).partition(b"\r\n\r\n")[2])
            assert chunks.ended
            assert body.count(b"retry: ") == (2 if accept == "text/event-stream" else 0)
    assert gateway.log.read_text().count("reason=draining") == 20

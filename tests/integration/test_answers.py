"""Streams of answers over real connections: they end with their answer, or are cut off."""

import contextlib
import signal
import socket
import time

import pytest
import requests

from app.auth.tokens import make_token
from tests.raw_http import ChunkReader, read_to_end, read_until, request_stream, stream_path
from tests.servers import GatewayServer
from tests.streaming.follow.test_answer_streams import DONE, TWO_ANSWERS

SECRET = "a secret of more than thirty-two bytes"
ENDING = b'data: {"type":"finish"}\n\n' + DONE
PRESETS = "ai-sdk,ag-ui,openai,langgraph"
PATHS = {
    "ai-sdk": "/compat/ai-sdk/{}/stream",
    "ai-sdk by index": "/compat/ai-sdk/{}/stream?startIndex=0",
    "ag-ui": "/compat/ag-ui/{}",
    "openai": "/compat/openai/v1/responses/{}?stream=true",
    "langgraph": "/compat/langgraph/threads/t/runs/{}/stream",
}
CUT = [name for name in PATHS if name != "ai-sdk by index"]


@pytest.fixture(scope="module")
def presets(redis_server, tmp_path_factory):
    log = tmp_path_factory.mktemp("presets") / "log"
    with GatewayServer(redis_server.url, log, COMPAT=PRESETS) as gateway:
        yield gateway


def body_of(received: bytes) -> tuple[bytes, bool]:
    """Return the body, and whether it has ended properly."""
    chunks = ChunkReader()
    body = chunks.read(received.partition(b"\r\n\r\n")[2])
    return body, chunks.ended


def follow(gateway: GatewayServer, run_id: str, kind: str = "ai-sdk", **options) -> socket.socket:
    return request_stream(gateway.port, PATHS[kind].format(run_id), **options)


@pytest.mark.parametrize("kind", PATHS)
def test_a_live_stream_ends_with_the_answer(presets, store, run_id, kind):
    store.add(run_id, "lifecycle", "started", {"type": "begin"})
    with follow(presets, run_id, kind) as connection:
        received = read_until(connection, b"caught_up")
        store.add_many(run_id, TWO_ANSWERS)
        body, has_ended = body_of(received + read_to_end(connection))
    assert has_ended
    assert body.index(b'"begin"') < body.index(b'"last"') < body.index(b'"finish"')
    assert b"other" not in body


def test_so_it_does_if_the_next_answer_comes_in_pieces(presets, store, run_id):
    store.add(run_id, "lifecycle", "started")
    with follow(presets, run_id) as connection:
        received = read_until(connection, b"caught_up")
        for event in TWO_ANSWERS:
            store.add_many(run_id, [event])
        body, has_ended = body_of(received + read_to_end(connection))
    assert has_ended
    assert body.endswith(ENDING)
    assert b"other" not in body


def test_a_slow_client_gets_all_of_the_answer_and_nothing_of_the_next(presets, store, run_id):
    store.add(run_id, "lifecycle", "started")
    long = {"type": "long", "text": "x" * 200_000}
    with follow(presets, run_id, receive_buffer=4096) as connection:
        received = read_until(connection, b"caught_up")
        store.add_many(run_id, [{**TWO_ANSWERS[0], "data": long}, *TWO_ANSWERS])
        with follow(presets, run_id) as other:  # it sees the next answer, which goes on meanwhile
            for _ in range(20):
                store.add(run_id, "sse", "message", {"type": "other", "end": False})
            store.add(run_id, "sse", "message", {"type": "other", "end": True})
            read_until(other, b'"end":true')
        body, has_ended = body_of(received + read_to_end(connection))
    assert has_ended
    assert body.count(b"x" * 200_000) == 1
    assert body.endswith(ENDING)
    assert b"other" not in body


def test_all_of_many_streams_end(presets, store, run_id):
    store.add(run_id, "lifecycle", "started")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(follow(presets, run_id)) for _ in range(300)]
        heads = [read_until(connection, b"caught_up") for connection in connections]
        store.add_many(run_id, TWO_ANSWERS)
        for head, connection in zip(heads, connections, strict=True):
            body, has_ended = body_of(head + read_to_end(connection))
            assert has_ended
            assert body.endswith(ENDING)
            assert b"other" not in body


def test_a_stopping_worker_cuts_streams_off(start_gateway, store, run_id):
    gateway = start_gateway(COMPAT=PRESETS, DRAIN_SECONDS=1)
    store.add(run_id, "lifecycle", "started", {"type": "begin"})
    with contextlib.ExitStack() as stack:
        streams = {kind: stack.enter_context(follow(gateway, run_id, kind)) for kind in PATHS}
        heads = {kind: read_until(stream, b"caught_up") for kind, stream in streams.items()}
        gateway.process.send_signal(signal.SIGTERM)
        ended = {
            kind: body_of(heads[kind] + read_to_end(stream))[1] for kind, stream in streams.items()
        }
    assert ended == {kind: kind not in CUT for kind in PATHS}


def test_a_client_of_http_1_0_is_reset(start_gateway, store, run_id):
    """Its body ends with the connection, so a proper close would be the end of the answer."""
    gateway = start_gateway(COMPAT=PRESETS, DRAIN_SECONDS=1)
    store.add(run_id, "lifecycle", "started", {"type": "begin"})
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(follow(gateway, run_id, k, version="1.0")) for k in CUT]
        ordinary = stack.enter_context(
            request_stream(gateway.port, stream_path(run_id), version="1.0")
        )
        for stream in (*streams, ordinary):
            read_until(stream, b"caught_up")
        gateway.process.send_signal(signal.SIGTERM)
        for stream in streams:
            with pytest.raises(ConnectionResetError):
                read_to_end(stream)
        read_to_end(ordinary)


def test_an_expired_token_cuts_streams_off_and_is_then_refused(start_gateway, store, run_id):
    gateway = start_gateway(COMPAT=PRESETS, AUTH_SECRET=SECRET)
    store.add(run_id, "lifecycle", "started", {"type": "begin"})
    token = make_token(SECRET, "tailrace", {"read": [run_id]}, 3, aud="tailrace")
    headers = {"Authorization": f"Bearer {token}"}
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(follow(gateway, run_id, k, headers=headers)) for k in CUT]
        for stream in streams:
            assert not body_of(read_to_end(stream))[1]
    for kind in CUT:
        url = gateway.url + PATHS[kind].format(run_id)
        answer = requests.get(url, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["status"]) == (401, 401)


def test_a_token_for_another_run_is_refused_by_every_preset(start_gateway, store, run_id):
    gateway = start_gateway(COMPAT=PRESETS, AUTH_SECRET=SECRET)
    store.add(run_id, "lifecycle", "started")
    token = make_token(SECRET, "tailrace", {"read": ["other"]}, 60, aud="tailrace")
    paths = [path.format(run_id) for path in PATHS.values()]
    paths += [f"/compat/ag-ui?runId={run_id}", f"/compat/langgraph/threads/t/runs/{run_id}"]
    for path in paths:
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 403)):
            answer = requests.get(gateway.url + path, headers=headers, timeout=10)
            assert answer.status_code == status, path


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_client_that_posts_its_messages_is_not_reset(presets, store, run_id, size):
    store.add_many(run_id, TWO_ANSWERS[:2])
    url = presets.url + PATHS["ag-ui"].format(run_id)
    for body in (b"x" * size, iter([b"x" * size])):
        answer = requests.post(url, data=body, timeout=30)
        assert b'"finish"' in answer.content


def test_a_posted_body_that_is_too_large_is_refused(presets, store, run_id):
    store.add(run_id, "lifecycle", "completed")
    url = presets.url + PATHS["ag-ui"].format(run_id)
    answer = requests.post(url, data=b"x" * (16 * 1024 * 1024 + 1), timeout=30)
    assert answer.status_code == 413


def test_payloads_are_delivered_live_beside_events(presets, store, run_id):
    store.add(run_id, "llm", "stream", {"text": "a"})
    payload = stream_path(run_id, "format=payload")
    with request_stream(presets.port, payload) as connection:
        received = read_until(connection, b"caught_up")
        store.add(run_id, "llm", "stream", {"text": "b"})
        store.add(run_id, "lifecycle", "completed")
        body, has_ended = body_of(received + read_to_end(connection))
    lines = [line for line in body.split(b"\n") if line.startswith((b"data", b"event"))]
    assert lines == [b'data: {"text":"a"}', b'data: {"text":"b"}']
    assert has_ended


def test_an_answer_that_ended_a_minute_ago_is_nothing_to_resume(presets, redis_client, run_id):
    fields = {"event_category": "lifecycle", "event_action": "completed", "sequence": 1}
    for age, status in ((50, 200), (61, 204)):
        run = f"{run_id}.{age}"
        redis_client.xadd(f"run:{run}:events", fields, id=f"{int((time.time() - age) * 1000)}-0")
        answer = requests.get(presets.url + PATHS["ai-sdk"].format(run), timeout=10)
        assert answer.status_code == status


def test_an_answer_whose_beginning_was_trimmed(presets, store, redis_client, run_id):
    store.add(run_id, "lifecycle", "started", {"type": "start"})
    for number in range(3):
        store.add(run_id, "sse", "message", {"type": "x", "number": number})
    redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    for path in PATHS.values():
        answer = requests.get(presets.url + path.format(run_id), timeout=10)
        assert answer.status_code == 410, path
        assert "not retained" in answer.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_the_input_of_an_http_agent_does_not_cost_the_answer(presets, store, run_id, chunked):
    # A connection that is closed with unread bytes is reset, and what was not read is lost.
    store.add(run_id, "lifecycle", "started", {"type": "begin"})
    store.add(run_id, "lifecycle", "completed", {"type": "last"})
    body = b"x" * 12_000_000
    piece = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = f"POST /compat/ag-ui/{run_id} HTTP/1.1\r\nHost: localhost\r\n{size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", presets.port), 30) as connection:
        connection.sendall(head.encode() + piece)
        received, has_ended = body_of(read_to_end(connection))
    assert has_ended
    assert b'"last"' in received

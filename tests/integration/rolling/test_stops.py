"""What clients see while the gateway stops or reloads."""

import contextlib
import http.client
import itertools
import json
import re
import signal
import socket
import threading

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.integration.rolling.background import (
    DRAIN_SECONDS,
    EVENT,
    GRACE_SECONDS,
    StreamBody,
    appending,
    listens,
    post,
)
from tests.raw_http import stream_path
from tests.servers import GatewayServer, wait_until


def answer_of(connection: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response, response.read()


def test_a_drain_ends_streams_one_by_one_with_random_retries(start_gateway, store, run_id):
    gateway = start_gateway()
    bodies = [StreamBody(gateway, run_id) for _ in range(40)]
    for body in bodies:
        body.wait_for("gateway.caught_up")
    with appending(lambda number: store.add(run_id, "llm", "stream", number)):
        bodies[0].wait_for('"sequence":5')
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any(body.ended_at for body in bodies), "the drain begins")
        gateway.process.send_signal(signal.SIGTERM)  # a second signal changes nothing
        for body in bodies:
            body.wait_for_end()
    assert gateway.process.wait(DRAIN_SECONDS + GRACE_SECONDS) == 0
    gateway.process = None
    assert [body.error for body in bodies] == [None] * 40
    for body in bodies:
        assert body.sequences == list(range(1, len(body.sequences) + 1))
    retries = [body.retries[1] for body in bodies]
    assert len(set(retries)) > 20
    assert 50 <= min(retries) <= max(retries) <= 500
    ends = sorted(body.ended_at for body in bodies)
    assert ends[-1] - ends[0] > DRAIN_SECONDS / 4
    assert ends[-1] - ends[20] > DRAIN_SECONDS / 8
    assert gateway.log.read_text().count("reason=draining") == 40


def test_open_connections_are_served_while_the_gateway_drains(start_gateway, store, run_id):
    """The worker has accepted them before. It accepts no new ones."""
    gateway = start_gateway(RETRY_MS=900)
    [worker] = gateway.workers()
    body = json.dumps(EVENT).encode()
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    def get(path: str, accept: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode()

    def kept_alive(sent: bytes = b"") -> socket.socket:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
        connection.settimeout(20)
        connection.sendall(get("/healthz", "*/*"))
        assert answer_of(connection)[0].status == 200
        connection.sendall(sent)
        return connection

    def ask(connection: socket.socket, sent: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection.sendall(sent)
        return answer_of(connection)

    with contextlib.ExitStack() as stack:
        half_sent = kept_alive(head + body[:5])
        whole, browser, script, poll, healthz, readyz = (kept_alive() for _ in range(6))
        stream = StreamBody(gateway, run_id)
        stream.wait_for("gateway.caught_up")
        gateway.process.send_signal(signal.SIGTERM)
        stream.wait_for_end()
        wait_until(lambda: not listens(worker), "the worker accepts no new connections")
        assert ask(half_sent, body[5:])[0].status == 201
        answer, _ = ask(whole, head + body)
        assert (answer.status, answer.getheader("Connection")) == (201, "close")
        answer, document = ask(browser, get(stream_path(run_id), "text/event-stream"))
        assert answer.status == 200
        assert re.fullmatch(rb"retry: ([5-9]\d|100)\n", document)
        answer, document = ask(script, get(stream_path(run_id), "*/*"))
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        assert json.loads(document)["status"] == 503
        last = store.get_events(run_id)[-1].id
        polled = ask(poll, get(f"/runs/{run_id}/events?after={last}&wait=20", "*/*"))
        assert (polled[0].status, json.loads(polled[1])["events"]) == (200, [])
        assert ask(healthz, get("/healthz", "*/*"))[0].status == 200
        answer, _ = ask(readyz, get("/readyz", "*/*"))
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.port))
    assert [event.sequence for event in store.get_events(run_id)] == [1, 2]


@pytest.mark.parametrize(("number", "failing"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_every_append_during_a_stop_is_answered_and_a_reload_fails_none(
    start_gateway, store, run_id, number, failing
):
    gateway = start_gateway()
    [worker] = gateway.workers()
    answered: dict[str, int] = {}
    failed: list[object] = []
    over = threading.Event()

    def produce(name: str) -> None:
        for count in itertools.count():
            key = f"{name}-{count}"
            try:
                answer = post(gateway, run_id, key, data=key)
                if answer.status_code == 201:
                    answered[key] = answer.json()["sequence"]
                else:
                    failed.append(answer.status_code)
            except requests.ConnectionError as error:
                failed.append(type(error))
            if over.wait(0.005):
                return

    producers = [threading.Thread(target=produce, args=(f"p{index}",)) for index in range(4)]
    try:
        for producer in producers:
            producer.start()
        wait_until(lambda: len(answered) > 50, "appends go on")
        gateway.process.send_signal(number)
        worker.wait(DRAIN_SECONDS + GRACE_SECONDS)
        before = len(answered) + len(failed)
        wait_until(lambda: len(answered) + len(failed) > before + 20, "producers go on")
    finally:
        over.set()
        for producer in producers:
            producer.join()
    assert {event.data: event.sequence for event in store.get_events(run_id)} == answered
    assert set(failed) == ({requests.ConnectionError} if failing else set())


def test_silent_clients_and_a_silent_redis_do_not_delay_a_stop(start_gateway, start_redis, run_id):
    redis = start_redis()
    connected, silent = threading.Event(), threading.Event()
    answers: list[requests.Response] = []

    def append() -> None:
        with requests.Session() as session:
            session.post(f"{gateway.url}/runs/{run_id}/events", json=EVENT)
            connected.set()
            silent.wait(20)
            answers.append(session.post(f"{gateway.url}/runs/{run_id}/events", json=EVENT))

    gateway = start_gateway(redis.url, DRAIN_SECONDS=0)
    stream = StreamBody(gateway, run_id)
    stream.wait_for("gateway.caught_up")
    producer = threading.Thread(target=append)
    producer.start()
    assert connected.wait(20)
    with contextlib.ExitStack() as stack:
        _fill_with_idle_clients(gateway, EventStore(redis.url), f"{run_id}-long", stack)
        redis.pause()
        silent.set()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(GRACE_SECONDS) == 0
        gateway.process = None
    producer.join()
    stream.wait_for_end()
    assert (stream.error, len(stream.retries)) == (None, 2)
    [answer] = answers
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["stored"] == "unknown"


def _fill_with_idle_clients(
    gateway: GatewayServer, store: EventStore, run_id: str, stack: contextlib.ExitStack
) -> None:
    """Open connections that send nothing, or half a request, or stay idle, or do not read."""
    for _ in range(100):
        store.add(run_id, "llm", "stream", "x" * 100_000)
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
    )
    for sent in (
        "",
        "GET /healthz HTT",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"{head}Content-Length: 100\r\n\r\n{{",
        f"GET {stream_path(run_id)} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        connection = stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", gateway.port))
        connection.sendall(sent.encode())
    wait_until(lambda: f"opened run={run_id} " in gateway.log.read_text(), "all are accepted")


def test_a_reload_while_redis_is_silent_ends_streams_properly_and_serves_on(
    start_gateway, start_redis, run_id
):
    redis = start_redis()
    gateway = start_gateway(redis.url)
    [worker] = gateway.workers()
    parked = StreamBody(gateway, run_id)
    parked.wait_for("gateway.caught_up")
    redis.pause()
    gateway.process.send_signal(signal.SIGHUP)
    parked.wait_for_end()
    assert (parked.error, len(parked.retries)) == (None, 2)
    worker.wait(GRACE_SECONDS)
    assert requests.get(f"{gateway.url}/healthz", timeout=20).status_code == 200
    redis.resume()
    opened = StreamBody(gateway, run_id)
    assert post(gateway, run_id, "1").status_code == 201
    opened.wait_for('"sequence":1')

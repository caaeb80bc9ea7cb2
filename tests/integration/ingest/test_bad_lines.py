"""Bad lines, huge bodies and floods: the client is answered, and the gateway stays healthy."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.integration.ingest.producer import (
    CHUNKED,
    MB,
    MemoryCheck,
    Producer,
    chunk,
    data_of,
    head,
    is_healthy,
    line,
    send_until_answered,
)
from tests.servers import GatewayServer


def test_a_client_that_sends_on_after_a_bad_line_gets_the_answer(gateway, store, run_id):
    with Producer(gateway, run_id) as producer:
        producer.send(line(1), b"{\n")
        send_until_answered(producer)
        status, answer = producer.answer()
    assert (status, answer["line"], answer["stored"]) == (400, 2, 1)
    assert data_of(store, run_id) == [1]


def test_curl_that_sends_on_after_a_bad_line_gets_the_answer(gateway, run_id):
    curl = subprocess.run(
        [
            *("curl", "-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: application/x-ndjson"),
            f"{gateway.url}/runs/{run_id}/events",
        ],
        input=line(1) + b"{\n" + line("x" * 10_000) * 3000,
        stdout=subprocess.PIPE,
        timeout=30,
    )
    answer = json.loads(curl.stdout)
    assert (curl.returncode, answer["status"], answer["line"], answer["stored"]) == (0, 400, 2, 1)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 400),
        ("", {"Idempotency-Key": "k"}, 400),
        ("expected_sequence=5", {}, 409),
        ("", {"Content-Type": "application/x-ndjson; charset=utf-16"}, 415),
    ],
)
def test_requests_that_sends_on_after_an_error_gets_the_answer(
    gateway, run_id, query, headers, status
):
    def lines() -> Iterator[bytes]:
        yield line(1)
        yield b"{\n"
        for _ in range(3000):
            yield line("x" * 10_000)

    headers = {"Content-Type": "application/x-ndjson", **headers}
    answer = requests.post(
        f"{gateway.url}/runs/{run_id}/events?{query}", data=lines(), headers=headers, timeout=30
    )
    assert answer.status_code == status
    assert answer.json()["status"] == status


@pytest.mark.parametrize("http_chunk", [True, False], ids=["chunked", "with length"])
def test_a_line_without_an_end_is_413_and_takes_no_memory(gateway, store, run_id, http_chunk):
    headers = [CHUNKED] if http_chunk else [f"Content-Length: {500 * MB}"]
    with Producer(gateway, run_id, *headers) as producer:
        opening = line(1)
        producer.raw(chunk(opening) if http_chunk else opening)
        MemoryCheck(gateway).send(producer, 500, b"x" * MB, http_chunk)
        status, answer = producer.answer()
    assert (status, answer["line"], answer["stored"]) == (413, 2, 1)
    assert is_healthy(gateway)


@pytest.fixture(scope="module")
def short_logs(redis_server, tmp_path_factory) -> Iterator[GatewayServer]:
    """Start a gateway that keeps ten events of each run, so that a body may be large."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(redis_server.url, log, STREAM_MAXLEN=10) as gateway:
        yield gateway


@pytest.mark.parametrize("http_chunk", [True, False], ids=["chunked", "with length"])
@pytest.mark.parametrize(
    ("piece", "megabytes"),
    [(line("x" * 200_000) * 5, 40), (b"\n" * MB, 3)],
    ids=["events", "blank"],
)
def test_a_body_of_many_megabytes_takes_no_memory(short_logs, run_id, piece, megabytes, http_chunk):
    pieces = megabytes * MB // len(piece)
    headers = [CHUNKED] if http_chunk else [f"Content-Length: {pieces * len(piece)}"]
    with Producer(short_logs, run_id, *headers) as producer:
        MemoryCheck(short_logs).send(producer, megabytes, piece, http_chunk)
        status, answer = producer.end() if http_chunk else producer.answer()
    assert (status, answer["stored"]) == (200, pieces * piece.count(b"{"))


FLOODS = {
    "a line in tiny chunks": ("application/x-ndjson", chunk(b" ") * 60_000),
    "blank lines in tiny chunks": ("application/x-ndjson", chunk(b"\n") * 60_000),
    "blank lines": ("application/x-ndjson", chunk(b"\n" * MB)),
    "a Server-Sent Event in tiny chunks": ("text/event-stream", chunk(b"data\n") * 60_000),
    "empty lines of Server-Sent Events": ("text/event-stream", chunk(b"\r" * MB)),
    "comments of Server-Sent Events": ("text/event-stream", chunk(b":\r\n" * 300_000)),
    "an event in tiny chunks": ("application/json", chunk(b" ") * 60_000),
    "a body of another type": ("text/plain", chunk(b"x" * MB)),
}


@pytest.mark.parametrize(("kind", "piece"), FLOODS.values(), ids=FLOODS)
def test_a_client_that_floods_the_gateway_delays_no_other_client(gateway, run_id, kind, piece):
    stop = threading.Event()

    def flood() -> None:
        opening = head(run_id, CHUNKED).replace(b"application/x-ndjson", kind.encode())
        while not stop.is_set():
            with Producer(gateway, "") as producer, contextlib.suppress(OSError):
                producer.raw(opening)
                while not stop.is_set():
                    producer.raw(piece)

    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood)
        try:
            url = f"{gateway.url}/runs/{run_id}-other/events"
            for number in range(1, 6):
                answer = requests.post(url, json=json.loads(line()), timeout=10)
                assert answer.json()["sequence"] == number
        finally:
            stop.set()
        flooding.result(30)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_line_that_takes_too_long_is_refused_with_408(impatient_gateway, run_id, trickles):
    with Producer(impatient_gateway, run_id) as producer:
        producer.send(line(1), b"\n")
        assert not producer.is_answered_within(2.0), "silence is allowed"
        producer.send(line(2)[:-1])
        if trickles:
            while not producer.is_answered_within(0.1):
                producer.send(b" ")
        status, answer = producer.answer()
    assert (status, answer["line"], answer["stored"]) == (408, 3, 1)

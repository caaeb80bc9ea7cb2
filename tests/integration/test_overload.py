"""A gateway with more streams than it admits, and with clients that send little or nothing."""

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest
import requests

from tests.clients import Stream
from tests.processes import run_node, sequences_of
from tests.raw_http import reset
from tests.servers import GatewayServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}
END = {"event_category": "lifecycle", "event_action": "completed"}
MAX_STREAMS = 4


@pytest.fixture(scope="module")
def small(redis_server, tmp_path_factory) -> Iterator[GatewayServer]:
    """Start a gateway that admits few streams, and asks clients to come back soon."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(redis_server.url, log, MAX_STREAMS=MAX_STREAMS, RETRY_MS=90) as gateway:
        yield gateway


@pytest.fixture
def streams(small, run_id) -> Iterator[list[Stream]]:
    """Open as many streams as the small gateway admits."""
    wait_until(lambda: _open_streams(small) == 0, "the streams of the previous test have ended")
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(stream_url(small, run_id))) for _ in range(4)]
        for stream in streams:
            stream.wait_for_control("caught_up")
        yield streams


def stream_url(gateway: GatewayServer, run_id: str) -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream"


def append(gateway: GatewayServer, run_id: str, **event: object) -> requests.Response:
    return requests.post(f"{gateway.url}/runs/{run_id}/events", json={**EVENT, **event}, timeout=20)


def _open_streams(gateway: GatewayServer) -> int:
    log = gateway.log.read_text()
    return log.count("stream opened") - log.count("stream ended")


# Streams


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "Text/Event-Stream; charset=utf-8, */*;q=0.1"]
)
def test_a_browser_over_the_limit_gets_a_retry(small, streams, run_id, accept):
    answer = requests.get(stream_url(small, run_id), headers={"Accept": accept}, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store, no-transform"
    [retry] = re.fullmatch(r"retry: (\d+)\n", answer.text).groups()
    assert 60 <= int(retry) <= 120


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/x-ndjson"])
def test_another_client_over_the_limit_gets_503(small, streams, run_id, accept):
    answer = requests.get(stream_url(small, run_id), headers={"Accept": accept}, timeout=20)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_everything_else_works_while_no_stream_is_admitted(small, streams, run_id):
    assert requests.get(stream_url(small, run_id), timeout=20).status_code == 503
    assert append(small, run_id).status_code == 201
    for stream in streams:
        stream.wait_for_events(1)
    for path in ("/healthz", "/readyz", f"/runs/{run_id}", f"/runs/{run_id}/events"):
        assert requests.get(small.url + path, timeout=20).status_code == 200, path
    assert requests.head(stream_url(small, run_id), timeout=20).status_code == 200
    assert not any(stream.ended for stream in streams)


def test_a_client_of_an_ended_run_gets_204_even_over_the_limit(small, streams, run_id):
    ended = f"{run_id}-ended"
    last = append(small, ended, **END).json()["id"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    assert requests.get(stream_url(small, ended), headers=headers, timeout=20).status_code == 204


def test_the_place_of_a_closed_stream_goes_to_the_next_one(small, streams, run_id):
    streams[0].close()

    def admitted() -> bool:
        with Stream(stream_url(small, run_id)) as stream:
            return stream.status == 200

    wait_until(admitted, "another stream is admitted")


def test_an_event_source_over_the_limit_retries_until_admitted_and_misses_nothing(
    small, streams, run_id, tmp_path
):
    with run_node("follow.mjs", tmp_path / "out", stream_url(small, run_id)) as browser:
        browser.wait_for('"request"', 3)
        append(small, run_id)
        assert "llm.stream" not in browser.text()
        streams[0].close()
        browser.wait_for("gateway.caught_up")
        append(small, run_id)
        append(small, run_id, **END)
        lines = browser.finish()
    assert sequences_of(lines) == [1, 2, 3]
    assert {line["status"] for line in lines if line["what"] == "request"} == {200}


# Connections


def test_clients_that_send_little_or_nothing_keep_no_other_client_out(small, run_id):
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
    beginnings = ["", head[:7], head, f"{head}Content-Type: application/json\r\n"]
    beginnings.append(f"{beginnings[-1]}Content-Length: 100\r\n\r\n{{")
    with contextlib.ExitStack() as stack:
        for number in range(300):
            connection = socket.create_connection(("127.0.0.1", small.port), timeout=20)
            stack.enter_context(connection)
            connection.sendall(beginnings[number % len(beginnings)].encode())
        assert requests.get(f"{small.url}/healthz", timeout=20).status_code == 200
        assert append(small, run_id).json()["sequence"] == 1
        with Stream(stream_url(small, run_id)) as stream:
            stream.wait_for_events(1)


def test_streams_that_are_reset_before_they_begin_free_their_places(small, run_id):
    request = f"GET /runs/{run_id}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    wait_until(lambda: _open_streams(small) == 0, "the streams of the previous test have ended")
    for _ in range(40):
        connection = socket.create_connection(("127.0.0.1", small.port), timeout=20)
        connection.sendall(request)
        reset(connection)
    opened = f"stream opened run={run_id} "
    wait_until(lambda: opened in small.log.read_text(), "some streams are opened")
    assert requests.get(f"{small.url}/healthz", timeout=20).status_code == 200
    wait_until(lambda: _open_streams(small) == 0, "their places are free again")

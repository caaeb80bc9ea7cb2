"""Request ids over raw connections: odd ones, on the way of plain appends and on every other."""

import re
import socket

import pytest

from app.server.request_ids import given_request_id
from tests.servers import GatewayServer

EVENT = b'{"event_category":"llm","event_action":"stream"}'


def ask(
    gateway: GatewayServer, method: bytes, path: str, header: bytes, body: bytes = b""
) -> bytes:
    """Send a request, and return all that is answered."""
    lines = (
        b"%b %b HTTP/1.1" % (method, path.encode()),
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        header,
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(b"\r\n".join(line for line in lines if line) + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def id_of(answer: bytes) -> str:
    """Return the id that an answer has, once."""
    [found] = re.findall(rb"(?im)^x-request-id: ([^\r]*)\r$", answer.partition(b"\r\n\r\n")[0])
    assert given_request_id(found.decode()), found
    return found.decode()


@pytest.mark.parametrize(
    ("header", "status", "echoed"),
    [
        (b"", 201, None),
        (b"X-Request-Id: a-1", 201, "a-1"),
        (b"x-request-ID:a-1", 201, "a-1"),
        (b"X-Request-Id: %b" % (b"a" * 128), 201, "a" * 128),
        (b"X-Request-Id: %b" % (b"a" * 129), 201, None),
        (b"X-Request-Id: %b" % (b"a" * 5000), 201, None),
        (b"X-Request-Id: %b" % (b"a" * 10_240), 431, None),  # no header is so long
        (b"X-Request-Id:", 201, None),
        (b"X-Request-Id: a b", 201, None),
        (b"X-Request-Id: a\xc3\xa9", 201, None),
        (b"X-Request-Id: a\xff", 201, None),
        (b"X-Request-Id: a\r\nX-Request-Id: b", 201, None),
        (b"X-Request-Id: a\r\nX-Injected: b", 201, "a"),
        (b"X-Request-Id: a\r\n X-Injected: b", 400, None),
        (b"X-Request-Id: a\rX-Injected: b", 400, None),
        (b"X-Request-Id: a\nX-Injected: b", 400, None),
        (b"X-Request-Id: a\x00", 400, None),
    ],
)
def test_an_append_is_answered_with_one_safe_id(gateway, run_id, header, status, echoed):
    answer = ask(gateway, b"POST", f"/runs/{run_id}/events", header, EVENT)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (id_of(answer) == echoed) == (echoed is not None)
    assert b"injected" not in answer.lower()
    if status >= 400:
        assert f'"request_id": "{id_of(answer)}"'.encode() in answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (b"GET", "/healthz", 200),
        (b"HEAD", "/healthz", 200),
        (b"OPTIONS", "/runs/1", 200),
        (b"GET", "/nothing", 404),
        (b"PUT", "/healthz", 405),
        (b"GET", "/runs/1/events/stream?tail=x", 400),
        (b"GET", "/client.js", 200),
        (b"GET", "/openapi.json", 200),
        (b"GET", "/metrics", 200),
    ],
)
def test_every_other_request_is_answered_with_its_id(gateway, method, path, status):
    answer = ask(gateway, method, path, b"X-Request-Id: c-3")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert id_of(answer) == "c-3"


def test_the_id_of_a_refused_stream_finds_it_in_the_log(gateway, run_id, redis_client):
    redis_client.set(f"run:{run_id}:events", "no log")
    answer = ask(gateway, b"GET", f"/runs/{run_id}/events/stream", b"X-Request-Id: d-4")
    assert id_of(answer) == "d-4"
    assert b'"request_id":"d-4"' in answer


def test_the_line_of_the_access_log_has_it(start_gateway):
    gateway = start_gateway(ACCESS_LOG="true")
    id_of(ask(gateway, b"GET", "/healthz", b"X-Request-Id: e-5"))
    assert re.search(r"request .* path=/healthz .* request_id=e-5$", gateway.log.read_text(), re.M)

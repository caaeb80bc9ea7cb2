"""The head of every kind of answer, as it leaves the gateway."""

import json
import socket
from http.client import HTTPMessage, parse_headers
from io import BytesIO

import pytest
import requests

from app.server.common_headers import SECURITY_HEADERS
from app.server.request_ids import given_request_id

HOST = b"Host: localhost\r\n"
CLOSE = HOST + b"Connection: close\r\n"
EVENT = {"event_category": "llm", "event_action": "stream"}
END = {"event_category": "lifecycle", "event_action": "completed"}


def head_of(port: int, request: bytes) -> tuple[int, HTTPMessage]:
    """Send a request, and return the status and the headers of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = connection.recv(65536)
            assert more, f"no whole head: {answer!r}"
            answer += more
    lines = BytesIO(answer)
    return int(lines.readline().split()[1]), parse_headers(lines)


def check(headers: HTTPMessage, caching: str = "no-store") -> None:
    [request_id] = headers.get_all("X-Request-Id")
    assert given_request_id(request_id), request_id
    for name, value in (*SECURITY_HEADERS, ("Cache-Control", caching)):
        assert headers.get_all(name) == [value], name
    assert headers.get("Server") in (None, "gunicorn"), "the server tells no version"


def post(
    body: bytes, media_type: bytes = b"application/json", path: bytes = b"RUN/events"
) -> bytes:
    fields = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (media_type, len(body))
    return b"POST /runs/%b HTTP/1.1\r\n%b%b\r\n%b" % (path, CLOSE, fields, body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n%b\r\n" % CLOSE, 200),
        (b"GET /readyz HTTP/1.1\r\n%b\r\n" % CLOSE, 200),
        (b"HEAD /healthz HTTP/1.1\r\n%b\r\n" % CLOSE, 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET /nothing HTTP/1.1\r\n%b\r\n" % CLOSE, 404),
        (b"GET /runs/RUN HTTP/1.1\r\n%b\r\n" % CLOSE, 404),
        (b"PUT /runs/RUN/events HTTP/1.1\r\n%b\r\n" % CLOSE, 405),
        (b"OPTIONS /runs/RUN/events HTTP/1.1\r\n%b\r\n" % CLOSE, 200),
        (b"GET /runs/RUN HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421),
        (b"GET /runs/RUN/events HTTP/1.1\r\n%b\r\n" % CLOSE, 200),
        (b"HEAD /runs/RUN/events HTTP/1.1\r\n%b\r\n" % CLOSE, 200),
        (b"GET /runs/RUN/events?limit=0 HTTP/1.1\r\n%b\r\n" % CLOSE, 400),
        (b"DELETE /runs/RUN/events HTTP/1.1\r\n%b\r\n" % CLOSE, 204),
        (post(json.dumps(EVENT).encode()), 201),
        (post(json.dumps([EVENT, END]).encode()), 201),
        (post(b"{}"), 422),
        (post(b"x"), 400),
        (post(b"x", b"text/plain"), 415),
        (post(json.dumps(EVENT).encode() + b"\n", b"application/x-ndjson"), 200),
        (post(b"{}\n", b"application/x-ndjson"), 422),
        # What gunicorn refuses before there is a request.
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n%bno colon\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bTransfer-Encoding: chunked, chunked\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bX: %b\r\n\r\n" % (HOST, b"x" * 9000), 431),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_every_answer_has_the_security_headers_and_names_no_version(
    gateway, run_id, request_bytes, status
):
    found, headers = head_of(gateway.port, request_bytes.replace(b"RUN", run_id.encode()))
    assert found == status
    check(headers)


@pytest.mark.parametrize("media_type", [b"text/event-stream", b"application/x-ndjson"])
def test_a_stream_has_them_too_and_so_has_the_end_of_its_run(gateway, run_id, media_type):
    url = f"{gateway.url}/runs/{run_id}/events"
    requests.post(url, json=EVENT, timeout=20)
    stream = b"GET /runs/%b/events/stream%b HTTP/1.1\r\n%bAccept: %b\r\n\r\n"
    request_bytes = stream % (run_id.encode(), b"", CLOSE, media_type)
    status, headers = head_of(gateway.port, request_bytes)
    assert status == 200
    check(headers, "no-store, no-transform")
    last = requests.post(url, json=END, timeout=20).json()["id"].encode()
    query = b"?last_event_id=" + last
    status, headers = head_of(gateway.port, stream % (run_id.encode(), query, CLOSE, media_type))
    assert status == 204
    check(headers)

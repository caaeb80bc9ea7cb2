"""JSON responses: the bytes are gunicorn's own, and a small response leaves in one send."""

import re
from http.client import HTTPResponse

import gevent.socket
import pytest
from flask import Response

from app.server.response import MAX_ONE_SEND_BYTES, JsonResponse
from app.streaming.follow import client_socket
from tests.server.gunicorn_connection import GunicornConnection

JSON = b'{"a":1}'
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUESTS = [
    GET,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]


def record_sends(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the bytes of every `send` of a gevent socket from now on."""
    sends: list[bytes] = []
    send = gevent.socket.socket.send

    def recording_send(self, data, flags=0):
        sends.append(bytes(data))
        return send(self, data, flags)

    monkeypatch.setattr(gevent.socket.socket, "send", recording_send)
    return sends


def respond(connection: GunicornConnection, response: Response) -> None:
    """Have a response sent as gunicorn's worker does."""
    server_response = connection.response()
    for piece in response(connection.environ, server_response.start_response):
        server_response.write(piece)


def response_bytes(request: bytes, response: Response) -> bytes:
    with GunicornConnection(request) as connection:
        respond(connection, response)
        return re.sub(rb"Date: .*?\r\n", b"", connection.client.recv(65536))


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_a_json_response_has_the_same_bytes_as_from_gunicorn(request_bytes):
    headers = {"Retry-After": "1", "X-Other": "é"}
    response = JsonResponse(JSON, 201, headers)
    expected = Response(JSON, 201, headers, content_type="application/json")
    assert response_bytes(request_bytes, response) == response_bytes(request_bytes, expected)


def test_head_and_body_of_a_small_response_leave_in_one_send(monkeypatch):
    with GunicornConnection(GET) as connection:
        sends = record_sends(monkeypatch)
        respond(connection, JsonResponse(JSON))
        assert len(sends) == 1
        received = HTTPResponse(connection.client)
        received.begin()
        assert (received.status, received.read()) == (200, JSON)
        assert received.headers["Date"].endswith(" GMT")


def test_a_large_body_is_not_copied_behind_its_head(monkeypatch):
    body = b"[%b]" % (b"1," * MAX_ONE_SEND_BYTES)
    with GunicornConnection(GET) as connection, gevent.Timeout(10):
        sends = record_sends(monkeypatch)
        responding = gevent.spawn(respond, connection, JsonResponse(body))
        received = HTTPResponse(connection.client)
        received.begin()
        assert received.read() == body
        responding.get()
    assert sends[0].endswith(b"\r\n\r\n")
    assert sends[1] == body


def test_a_client_that_does_not_read_is_a_timeout(monkeypatch):
    monkeypatch.setattr(client_socket, "STALLED_SECONDS", 0.01)
    closed = []
    response = JsonResponse(b"x" * 10_000_000)
    response.call_on_close(lambda: closed.append(True))
    with GunicornConnection(GET) as connection, gevent.Timeout(10), pytest.raises(TimeoutError):
        respond(connection, response)
    assert closed == [True]


def test_a_response_is_closed_once_it_is_sent():
    closed = []
    response = JsonResponse(JSON)
    response.call_on_close(lambda: closed.append(True))
    with GunicornConnection(GET) as connection:
        respond(connection, response)
    assert closed == [True]


def test_the_response_to_head_is_left_to_gunicorn(monkeypatch):
    with GunicornConnection(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        sends = record_sends(monkeypatch)
        server_response = connection.response()
        body = JsonResponse(JSON)(connection.environ, server_response.start_response)
        assert (b"".join(body), sends) == (b"", [])
        assert ("Content-Length", str(len(JSON))) in server_response.headers


def test_another_server_gets_the_body_as_an_iterable():
    statuses = []
    response = JsonResponse(JSON, 201)
    body = response({"REQUEST_METHOD": "GET"}, lambda status, headers: statuses.append(status))
    assert (b"".join(body), statuses) == (JSON, ["201 CREATED"])
